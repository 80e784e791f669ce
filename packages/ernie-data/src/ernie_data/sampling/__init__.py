"""Two-level sampling: the distribution, its caps, the index on disk, counter-based draws and the plan printed before training."""
