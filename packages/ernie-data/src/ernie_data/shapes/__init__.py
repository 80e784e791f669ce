"""ShapeBench: procedural scenes, their captions, and an exact verifier."""
