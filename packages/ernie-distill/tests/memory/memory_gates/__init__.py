"""A plugin for tests, found as an installed one is: a gate of somebody else, and pictures of two domains."""
