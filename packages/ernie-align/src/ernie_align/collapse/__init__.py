"""Preference training in the plane, small enough to see what collapses: two modes, one preferred. Importing it does nothing."""
