"""From a finished build to the trainer: the index, the rows' texts beside it, and caches of what frozen networks give."""
