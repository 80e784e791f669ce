"""An example plugin: the parallel block, the pseudo-Huber loss and the midpoint sampler."""
