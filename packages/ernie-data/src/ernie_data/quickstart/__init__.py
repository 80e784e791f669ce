"""The `ernie quickstart` command: a small text-to-image model trained, sampled and judged on this machine."""
