"""Duplicates: what a picture is recognised by, finding pairs among millions, and keeping the best of each group."""
