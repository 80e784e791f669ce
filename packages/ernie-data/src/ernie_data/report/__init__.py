"""The report on a build: one HTML page that loads nothing."""
