"""A plugin for tests, found as an installed one is: pictures and preference pairs made in memory."""
