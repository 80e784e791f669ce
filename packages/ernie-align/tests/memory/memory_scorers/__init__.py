"""A plugin for tests, found as an installed one is: scorers that judge a picture by its mean colour."""
