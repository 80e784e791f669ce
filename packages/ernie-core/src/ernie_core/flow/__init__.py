"""Flow matching: the path between data and noise, training times, and losses on the velocity."""
