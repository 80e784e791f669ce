"""A plugin for tests, found as an installed one is: three small methods that prove the ``Method`` seam, and pictures to train on."""
