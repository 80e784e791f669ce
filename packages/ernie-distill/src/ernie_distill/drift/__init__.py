"""``ernie distill drift``: what a student lost against its teachers, per domain."""
