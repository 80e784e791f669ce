"""What ernie-distill offers to the plugin host. Light: no torch."""

from __future__ import annotations

ERNIE_API = (0, 1)
