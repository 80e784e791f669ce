"""``ernie align report``: what a run of preference training did, as one HTML page."""
