"""Sets for supervised fine-tuning, top-down: domains first, the best and most coherent of each, captions in four prompt styles."""
