"""Prompt encoders: prompts to text embeddings."""
