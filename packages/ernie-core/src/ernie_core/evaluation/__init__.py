"""``ernie eval``: sample a suite's prompts, judge the pictures, and give every metric with its interval."""
