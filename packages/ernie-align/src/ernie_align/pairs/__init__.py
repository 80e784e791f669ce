"""Preference pairs: their files, the data source, importers and the builder."""
