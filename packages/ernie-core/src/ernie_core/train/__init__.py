"""The trainer and the seam every training method implements."""
