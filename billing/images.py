"""Tokens of an image in a prompt, by its size in pixels, as OpenAI and Anthropic publish the rules.

Source: OpenAI's guide "Images and vision", section "Calculating costs". An image is shrunk to fit a square of 2,048
pixels, then until its shorter side is 768; each tile of 512 pixels counts, besides a base. Small models count patches
of 32 pixels, at most 1,536 of them, times a factor. What is not known is counted as the largest there is.
"""

import base64
import binascii
from dataclasses import dataclass

_SQUARE, _SHORT_SIDE, _TILE, _PATCH = 2_048, 768, 512, 32
_MOST_PATCHES = 1_536
_READ_BYTES = 192 * 1024  # of a JPEG: its size may come after a preview of up to 64 kB and a colour profile
_HEAD_BYTES = 48  # of any other form
IMAGE_HEAD = _READ_BYTES * 4 // 3  # of base64: as much as tells the size
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a prompt; sizes in pixels, 0 where not known. `is_low`: asked for at the low detail."""

    width: int = 0
    height: int = 0
    is_low: bool = False


@dataclass(frozen=True, slots=True)
class _Tiles:
    base: int
    tile: int

    def tokens(self, image: Image) -> int:
        if image.is_low:
            return self.base
        return self.base + self.tile * _count_tiles(image)


@dataclass(frozen=True, slots=True)
class _Patches:
    """`hundredths` of a token a patch. The low detail is not counted cheaper: no figure is published."""

    hundredths: int

    def tokens(self, image: Image) -> int:
        patches = _MOST_PATCHES
        if image.width and image.height:
            patches = min(-(-image.width // _PATCH) * -(-image.height // _PATCH), _MOST_PATCHES)
        return -(-patches * self.hundredths // 100)


class _Area:
    """Anthropic's guide "Vision": a token for 750 pixels, of an image that is shrunk to fit first; the largest that
    newer models look at has 4,784."""

    def tokens(self, image: Image) -> int:
        most = 4_784
        return min(-(-image.width * image.height // 750), most) if image.width and image.height else most


# By how a model's name begins; the longest that fits counts. Every other model is counted as gpt-4o.
_RULES: dict[str, _Tiles | _Patches | _Area] = {
    "claude": _Area(),
    "": _Tiles(85, 170),
    "gpt-4o-mini": _Tiles(2_833, 5_667),
    "o1": _Tiles(75, 150),
    "o3": _Tiles(75, 150),
    "gpt-5": _Tiles(70, 140),
    "gpt-4.1-mini": _Patches(162),
    "gpt-4.1-nano": _Patches(246),
    "gpt-5-mini": _Patches(162),
    "gpt-5-nano": _Patches(246),
    "o4-mini": _Patches(172),
}


def image_tokens(image: Image, model: str) -> int:
    """Prompt tokens of `image` for a provider's model of that name."""
    name = model.rpartition("/")[2].lower()
    prefix = max((known for known in _RULES if name.startswith(known)), key=len)
    return _RULES[prefix].tokens(image)


def read_image(url: str, detail: object) -> Image:
    """The image that a content part names; only a data URL tells its size. Never fails."""
    is_low = detail == "low"
    head, comma, data = url[:256].partition(",")
    if is_low or not comma or not head.startswith("data:") or not head.endswith(";base64"):
        return Image(is_low=is_low)
    start = len(head) + 1
    size = _read_size(_decode(data[: _HEAD_BYTES * 4 // 3]))
    if size is None and data.startswith("/9j/"):  # a JPEG
        size = _read_jpeg_size(_decode(url[start : start + _READ_BYTES * 4 // 3]))
    return Image(*size) if size else Image()


def _count_tiles(image: Image) -> int:
    if not image.width or not image.height:
        return (_SQUARE // _TILE) * -(-_SHORT_SIDE // _TILE)
    short, long = sorted((image.width, image.height))
    if long > _SQUARE:
        short, long = -(-short * _SQUARE // long), _SQUARE
    if short > _SHORT_SIDE:
        short, long = _SHORT_SIDE, -(-long * _SHORT_SIDE // short)
    return -(-short // _TILE) * -(-long // _TILE)


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def _read_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from the first bytes of a PNG, GIF or WebP."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 24:
        return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _read_webp_size(data)
    return None


def _read_webp_size(data: bytes) -> tuple[int, int] | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        mask = 0x3FFF
        return int.from_bytes(data[26:28], "little") & mask, int.from_bytes(data[28:30], "little") & mask
    return None


def _read_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height from a JPEG's first frame header; the previews inside other segments are stepped over."""
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF or marker in _JPEG_BARE:
            place += 1 if marker == 0xFF else 2
        elif marker in _JPEG_SIZES:
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            return int.from_bytes(width, "big"), int.from_bytes(height, "big")
        else:
            length = int.from_bytes(data[place + 2 : place + 4], "big")
            place += 2 + max(length, 2)
    return None
