"""Fine-tuning and preference training. Importing it does nothing."""
