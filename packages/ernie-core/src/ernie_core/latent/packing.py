"""Space to depth and back: squares of ``patch`` x ``patch`` places become channels."""

from __future__ import annotations

from torch import Tensor

from ernie_core.errors import DataError


def pack(x_BCHW: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> [B, C * patch^2, H / patch, W / patch]; the new channel is ``(c * patch + row) * patch + column``.

    Channel major, then row, then column: the released weights' order (other orders have the same shape).
    """
    B, C, H, W = x_BCHW.shape
    h, w = H // patch, W // patch
    return x_BCHW.reshape(B, C, h, patch, w, patch).permute(0, 1, 3, 5, 2, 4).reshape(B, C * patch * patch, h, w)


def unpack(x_BCHW: Tensor, patch: int) -> Tensor:
    """The inverse of ``pack``, bit-exact."""
    B, C, h, w = x_BCHW.shape
    c = C // (patch * patch)
    return x_BCHW.reshape(B, c, patch, patch, h, w).permute(0, 1, 4, 2, 5, 3).reshape(B, c, h * patch, w * patch)


def check_divisible(height_px: int, width_px: int, multiple_px: int) -> None:
    """Refuse picture sides a codec cannot cut into whole tokens.

    Raises:
        DataError: with both sides, the divisor, and the nearest sizes that fit.
    """
    if height_px < multiple_px or width_px < multiple_px or height_px % multiple_px or width_px % multiple_px:
        near = "x".join(str(max(round(side / multiple_px), 1) * multiple_px) for side in (width_px, height_px))
        raise DataError(
            f"picture size {width_px}x{height_px}: width and height must be multiples of {multiple_px} pixels; the nearest is {near}"
        )
