"""Captions from pictures, and how well captions fit their pictures: the stages ``caption``, ``faithfulness`` and ``agreement``."""
