"""The data source `prompts`: what a student is distilled on has no pictures."""
