"""Pictures as vectors: a fixed extractor without downloads, and models of transformers."""
