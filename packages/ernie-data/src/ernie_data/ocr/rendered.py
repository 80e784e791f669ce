"""Pages of text drawn by ourselves, in English and Chinese, with known truth: what an OCR backend's character error rate is measured on.

Fonts: DejaVu (``fonts-dejavu``), WenQuanYi Micro Hei (``fonts-wqy-microhei``), both of Debian, and the one that Pillow brings along (English alone).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ernie_core.api import MissingComponent
from ernie_core.rng import Rng

PILLOW = "Pillow's own"
_DEJAVU, _WQY = Path("/usr/share/fonts/truetype/dejavu"), Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc")
FONTS: Mapping[str, tuple[Path | str, ...]] = {
    "en": (
        _DEJAVU / "DejaVuSans.ttf",
        _DEJAVU / "DejaVuSerif.ttf",
        _DEJAVU / "DejaVuSansMono.ttf",
        _DEJAVU / "DejaVuSans-Bold.ttf",
        _WQY,
        PILLOW,
    ),
    "zh": (_WQY,),
}
SIZES_PX = (20, 60)
MOST_LINES = 5
COLOURS = (
    ("#111111", "#ffffff"),
    ("#ffffff", "#101418"),
    ("#103060", "#ffe9a8"),
    ("#ffee66", "#20407a"),
    ("#7a1020", "#bfe3c0"),
    ("#ffffff", "#c03020"),
    ("#202020", "#e08030"),
    ("#00308f", "#c0c0c0"),
    ("#f0f0f0", "#2e7d32"),
)
"""Ink and ground: dark on light, light on dark, and coloured grounds."""
_WORDS = """
the of and to in for with from about open closed daily fresh bread coffee garden museum station platform ticket price offer winter summer coats please
keep door quiet library reading room floor north south street river bridge market flower weather report morning evening train leaves arrives gate number
language model paper picture light colour simple quick brown fox jumps over lazy dog welcome thank you visiting again Berlin Paris London Tokyo Monday
Friday July 12 2026 9:30 45% No. 7 & Sons - sale!
"""
_PHRASES = """
欢迎光临 今日特价 五折优惠 请勿吸烟 人工智能 改变世界 图书馆 开放时间 新鲜水果 每天供应 安全第一 预防为主 春天的花园 百花盛开 下一站 人民广场 谢谢您的光临
再见 北京大学 上海博物馆 早上好 晚安 生日快乐 身体健康 学习中文 火车站 飞机场 小心台阶 注意安全 禁止停车 免费停车 自助餐厅 咖啡与茶 电影院 音乐会 天气预报
明天有雨 气温下降 新年快乐 恭喜发财 出口在左边 入口在右边 请排队等候 保持安静 节约用水 保护环境 文化中心 科学技术 健康生活
"""


@dataclass(frozen=True)
class Page:
    """A picture and the lines on it, with how they were drawn."""

    picture: Image.Image
    lines: tuple[str, ...]
    font: str
    size_px: int
    colours: tuple[str, str]


def fonts_of(language: str) -> tuple[Path | str, ...]:
    """The installed fonts for "en" or "zh".

    Raises:
        MissingComponent: there is none, naming the Debian package.
    """
    found = tuple(font for font in FONTS[language] if isinstance(font, str) or font.is_file())
    if not found:
        raise MissingComponent(
            f"there is no font for {language} among {', '.join(map(str, FONTS[language]))}: apt install fonts-wqy-microhei"
        )
    return found


def render_pages(language: str, *, count: int, seed: int = 0) -> Iterator[Page]:
    """``count`` pages of one to five lines, each a function of (language, seed, index) and of which fonts there are.

    Raises:
        MissingComponent: see ``fonts_of``.
    """
    fonts = fonts_of(language)
    for index in range(count):
        yield _page(language, fonts, Rng(seed).at(f"ocr/rendered/{language}", 0).generator(index))


def _page(language: str, fonts: tuple[Path | str, ...], generator: np.random.Generator) -> Page:
    name = fonts[int(generator.integers(len(fonts)))]
    size = int(generator.integers(SIZES_PX[0], SIZES_PX[1] + 1))
    font = ImageFont.load_default(size) if isinstance(name, str) else ImageFont.truetype(str(name), size)
    ink, ground = COLOURS[int(generator.integers(len(COLOURS)))]
    lines = tuple(_line(language, generator) for _ in range(int(generator.integers(1, MOST_LINES + 1))))
    pitch = round(size * float(generator.uniform(1.3, 1.7)))
    left, top = (int(v) for v in generator.integers(6, 40, size=2))
    width = left + max(round(font.getlength(line)) for line in lines) + int(generator.integers(10, 120))
    picture = Image.new("RGB", (width, top + pitch * len(lines) + int(generator.integers(6, 60))), ground)
    draw = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        draw.text((left, top + number * pitch), line, font=font, fill=ink)
    return Page(picture, lines, name if isinstance(name, str) else name.stem, size, (ink, ground))


def _line(language: str, generator: np.random.Generator) -> str:
    if language == "zh":
        return "".join(generator.choice(_PHRASES.split(), size=int(generator.integers(1, 4)), replace=False))
    text = " ".join(generator.choice(_WORDS.split(), size=int(generator.integers(2, 6)), replace=False))
    return text[0].upper() + text[1:]
