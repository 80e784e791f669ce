"""What ``ernie doctor`` says of Tesseract."""

from __future__ import annotations

from ernie_core.api import EnvironmentCheck, MissingComponent
from ernie_data.ocr.entries import TesseractConfig
from ernie_data.ocr.tesseract import find_tesseract


def check_tesseract() -> EnvironmentCheck:
    """Whether the ``ocr`` stage would work as it is by default."""
    try:
        found = find_tesseract(TesseractConfig().languages)
    except MissingComponent as missing:
        return EnvironmentCheck("tesseract", "absent", str(missing))
    return EnvironmentCheck("tesseract", "ok", f"{found.version} ({found.program}) with {', '.join(found.languages)}")
