"""Gates: how much each teacher counts for a sample."""
