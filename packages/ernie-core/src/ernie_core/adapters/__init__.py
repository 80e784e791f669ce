"""Low-rank adapters: several named ones over one base, switched by pointer and never merged in place. ``config`` is light, the rest needs torch."""
