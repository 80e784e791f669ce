"""Parallel engines: where masters, gradients and optimiser states live, and how ranks agree."""
