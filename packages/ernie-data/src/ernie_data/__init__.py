"""Image folders, ShapeBench and the quickstart."""
