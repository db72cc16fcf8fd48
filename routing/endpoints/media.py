"""What is no text in messages of any form: images, sound, files. They are measured without being taken apart."""

from collections.abc import Iterable

import msgspec

from billing.estimate import Extent
from billing.images import IMAGE_HEAD, read_image

# One second of sound is ten tokens (OpenAI's guide to audio) and, at the lowest bit rate of MP3, 1,000 bytes.
_SOUND_BYTES_PER_TOKEN = 100
# Of a file that the message only names, or of a film, nothing can be known here.
_UNSEEN_TOKENS = 32_768
_BASE64_GROWS = 4 / 3

_decode_parts = msgspec.json.Decoder(list[dict[str, msgspec.Raw] | str]).decode


class _Payload(msgspec.Struct):
    """The object beside a part's type, of any kind."""

    type: str | None = None
    media_type: str | None = None
    url: str | None = None
    detail: str | None = None
    data: str | None = None
    file_data: str | None = None

    @property
    def content(self) -> str:
        return self.url or self.data or self.file_data or ""

    @property
    def image_url(self) -> str:
        """Of an image, enough to tell its size."""
        if self.type == "base64" and self.data:
            return f"data:{self.media_type};base64,{self.data[:IMAGE_HEAD]}"
        return self.content


_decode_payload = msgspec.json.Decoder(_Payload | str).decode


def measure_media(contents: Iterable[msgspec.Raw]) -> Extent:
    """What the parts of some messages hold beside text; `text_bytes` is negative: so much of the body is none."""
    taken, tokens, images = 0, 0, []
    for content in contents:
        for name, payload in _payloads(content):
            taken += len(payload.content)
            if "image" in name:
                images.append(read_image(payload.image_url, payload.detail))
            else:
                tokens += _tokens_of(name, payload)
    return Extent(-taken, tokens, tuple(images))


def _payloads(content: msgspec.Raw) -> Iterable[tuple[str, _Payload]]:
    """The media of one message's content, each with the name of the field it stands in. A list of anything but
    parts and texts holds none."""
    rest = [content]
    while rest:  # no recursion: a caller may nest as deep as the parser allows
        try:
            parts = _decode_parts(rest.pop())
        except msgspec.DecodeError:
            continue
        for part in parts:
            for name, raw in part.items() if isinstance(part, dict) else ():
                if name in _NESTING and bytes(raw).startswith(b"["):  # what a tool returned
                    rest.append(raw)
                elif name == "source" and isinstance(part, dict):
                    if (payload := _read_payload(raw)).type in _SOURCES:
                        yield bytes(part.get("type", b'"file"')).decode().strip('"'), payload
                elif _is_media(name):
                    yield name, _read_payload(raw)


_NESTING = frozenset({"content", "output"})
_SOURCES = frozenset({"base64", "url", "file"})  # as Anthropic names them; another kind is text


def _is_media(name: str) -> bool:
    return (
        name in ("file", "file_data", "file_id")
        or name.endswith("_url")
        or "image" in name
        or "audio" in name
        or "video" in name
    )


def _read_payload(raw: msgspec.Raw) -> _Payload:
    try:
        payload = _decode_payload(raw)
    except msgspec.DecodeError:
        return _Payload()
    return payload if isinstance(payload, _Payload) else _Payload(url=payload)


def _tokens_of(name: str, payload: _Payload) -> int:
    """Tokens of sound by its length; of a file as many as it has bytes, as its pages are read as text and image."""
    size = int(len(payload.content) / _BASE64_GROWS)
    if "audio" in name and payload.data:
        return size // _SOUND_BYTES_PER_TOKEN + 1
    is_here = payload.file_data or payload.type == "base64" or name == "file_data"
    return size if is_here else _UNSEEN_TOKENS
