"""Curation stages. ``entries`` names them; each is built and run by ``ernie_data.engine``."""
