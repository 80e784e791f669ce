"""Distillation to few steps, with one teacher or several. Importing it does nothing."""
