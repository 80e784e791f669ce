"""Distillation in the plane, small enough to see what matching and guidance do: eight modes, a label for each. Importing it does nothing."""
