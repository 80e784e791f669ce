"""Scores of pictures, and selections by what the columns say."""
