"""Domain experts for a committee of teachers: short fine-tuning runs over one shared base."""
