"""Images cost what OpenAI publishes, and their sizes are read from the first bytes of every common form."""

import base64
import struct

import pytest

from billing.images import Image, image_tokens, read_image


@pytest.mark.parametrize(
    ("image", "model", "tokens"),
    [
        # The guide's own examples.
        (Image(1024, 1024), "gpt-4o", 765),
        (Image(2048, 4096), "gpt-4o", 1105),
        (Image(4096, 8192, is_low=True), "gpt-4o", 85),
        (Image(1024, 1024), "gpt-4.1-mini", 1659),  # 1,024 patches x 1.62
        # Others.
        (Image(512, 512), "gpt-4o", 255),
        (Image(1, 1), "gpt-4o", 255),
        (Image(), "gpt-4o", 1445),
        (Image(10_000, 100), "gpt-4o", 85 + 4 * 170),
        (Image(1024, 1024), "gpt-4o-mini-2024-07-18", 2833 + 4 * 5667),
        (Image(1024, 1024), "openai/o3", 675),
        (Image(1024, 1024), "gpt-5-2025-08-07", 630),
        (Image(), "gpt-5-nano", 3779),
        (Image(9_000, 9_000), "o4-mini", 2642),
        (Image(1024, 1024), "some-other-model", 765),
    ],
)
def test_tokens(image: Image, model: str, tokens: int) -> None:
    assert image_tokens(image, model) == tokens


def test_no_image_counts_more_than_one_of_unknown_size() -> None:
    for model in ("gpt-4o", "gpt-4o-mini", "gpt-5-nano"):
        largest = image_tokens(Image(), model)
        sides = (1, 31, 511, 513, 767, 769, 1535, 2047, 2049, 4096, 60_000)
        assert all(image_tokens(Image(w, h), model) <= largest for w in sides for h in sides)


# The beginnings of black pictures of 321 x 123 pixels, as Pillow 12 writes them.
_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGBgcGBQgHBwcJCQgKDBQNDAsLDBkSEw8UHRofHh0aHBwgJC4nICIsIxwcKDcpLDAxNDQ0Hyc5PTgy"
    "PC4zNDL/2wBDAQkJCQwLDBgNDRgyIRwhMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjIyMjL/"
)
PICTURES = {
    "png": "iVBORw0KGgoAAAANSUhEUgAAAUEAAAB7CAIAAABl+qUZAAAAiklEQQ==",
    "gif": "R0lGODdhQQF7AIEAAAAAAAAAAAAAAAAAACwAAAAAQQF7AEAI/wABCA==",
    "jpeg": _JPEG + "wAARCAB7AUEDASI=",
    "progressive": _JPEG + "wgARCAB7AUEDASI=",
    "webp": "UklGRoIAAABXRUJQVlA4IHYAAAAwDACdASpBAXsAPm02mUmkIyKhIA==",
    "lossless": "UklGRiYAAABXRUJQVlA4TBkAAAAvQIEeAAcQEf0PKEjbgKl/+92J6A==",
    "extended": "UklGRqYAAABXRUJQVlA4WAoAAAAIAAAAQAEAegAAVlA4IHYAAAAwDA==",
}
PREVIEW = b"\xff\xe1\xff\xfeExif\0\0" + b"\xff\xc0" * 32_763  # its headers are not the image's


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("form", PICTURES)
def test_sizes(form: str) -> None:
    data = base64.b64decode(PICTURES[form])
    assert read_image(url(data + b"0" * 100_000), "high") == Image(321, 123)


def test_the_size_of_a_picture_with_a_preview() -> None:
    data = base64.b64decode(PICTURES["jpeg"])
    assert read_image(url(data[:2] + PREVIEW * 2 + data[2:]), None) == Image(321, 123)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://example.com/a.png",
        "data:image/png,abc",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        "data:image/jpeg;base64,/9j/\N{GRINNING FACE}" * 9,
        url(b"\xff\xd8" + b"\xff" * 400_000),
        url(b"\xff\xd8" + struct.pack(">BBH", 0xFF, 0xE1, 0) * 99),
        url(base64.b64decode(PICTURES["jpeg"])[:2] + PREVIEW * 9),
        url(base64.b64decode(PICTURES["png"])[:20]),
        url(base64.b64decode(PICTURES["webp"])[:28]),
        url(b"RIFF0000WEBPVP9 " + b"0" * 20),
    ],
)
def test_what_cannot_be_read_is_of_unknown_size(text: str) -> None:
    assert read_image(text, None) == Image()
    assert read_image(text, "low") == Image(is_low=True)
