"""Reading a picture with Tesseract: every language and page mode, again at another size where the writing is too small or too large, and one answer.

Tesseract's networks see lines of some 36 pixels; what is much larger falls apart into strokes (Chinese above all), what is much smaller is not found.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from PIL import Image

from ernie_data.ocr.entries import TesseractConfig
from ernie_data.ocr.lines import Box, Line, Word, is_credible, lines_of, merged
from ernie_data.ocr.prepare import Prepared, prepare
from ernie_data.ocr.tesseract import Tesseract, TesseractFailed

CODE = "2"
SMALL_LINE_PX, LARGE_LINE_PX, GOOD_LINE_PX = 18, 52, 34
"""Heights of lines: below the first and above the second the picture is read again with lines of the third."""
SMALL_PICTURE_PX = 400
"""A picture without any writing is read again at twice its size if it is no larger than this."""
MOST_ENLARGED = 4.0


def read_text(picture: Image.Image, tesseract: Tesseract, config: TesseractConfig, *, least_confidence: float) -> list[Line]:
    """The lines of text in an RGB picture, in reading order, boxes in its pixels.

    Raises:
        TesseractFailed: it did not finish in ``config.timeout_s``, or ended with an error.
    """
    end = time.monotonic() + config.timeout_s
    small = _reduced(picture, config.side_px)
    passes = _passes(small, 1.0, tesseract, config, end)
    if (other := _better_scale(passes, small, 1.0, least_confidence)) is not None:
        passes += _passes(small, other, tesseract, config, end)
    lines = merged([line for line in lines if is_credible(line, least_confidence)] for lines in passes)
    return [Line(line.text, line.confidence, _enlarged(line.box, small.size, picture.size)) for line in lines]


def _reduced(picture: Image.Image, side_px: int) -> Image.Image:
    """Before anything else is done with it: what follows takes some fifty bytes a pixel."""
    scale = side_px / max(picture.size)
    return picture if scale >= 1 else picture.resize(tuple(max(1, round(side * scale)) for side in picture.size), Image.Resampling.LANCZOS)


def _enlarged(box: Box, size: tuple[int, int], to: tuple[int, int]) -> Box:
    left, top, right, bottom = (round(box[i] * to[i % 2] / size[i % 2]) for i in range(4))
    return left, top, right, bottom


def _passes(picture: Image.Image, scale: float, tesseract: Tesseract, config: TesseractConfig, end: float) -> list[list[Line]]:
    prepared = prepare(picture, scale=scale)
    found = []
    for language in config.languages:
        for page_mode in config.page_modes:
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise TesseractFailed("timeout", f"the picture took longer than {config.timeout_s:g} s")
            words = tesseract.read(prepared.png, language=language, page_mode=page_mode, timeout_s=left_s)
            found.append(lines_of([_placed(word, prepared, picture.size) for word in words]))
    return found


def _placed(word: Word, prepared: Prepared, size: tuple[int, int]) -> Word:
    return Word(word.text, word.confidence, prepared.box_in_picture(word.box, size), word.line)


def _better_scale(passes: Sequence[Sequence[Line]], picture: Image.Image, scale: float, least_confidence: float) -> float | None:
    """At which scale to read again, if at all."""
    heights = [(line.box[3] - line.box[1]) * scale for lines in passes for line in lines if is_credible(line, least_confidence)]
    if not heights:
        return 2.0 if max(picture.size) <= SMALL_PICTURE_PX else None
    height = max(median(heights), 1.0)
    if SMALL_LINE_PX <= height <= LARGE_LINE_PX:
        return None
    return scale * min(GOOD_LINE_PX / height, MOST_ENLARGED)
