"""Data sources: a user's folder of pictures, and ShapeBench rendered in memory."""
