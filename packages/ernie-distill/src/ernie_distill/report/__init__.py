"""``ernie distill report``: what a run of distillation did, and what its student lost, as one HTML page."""
