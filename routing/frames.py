"""Passes an OpenAI event stream on, whole frames at a time, and learns from it what the ledger needs.

Parse after, not during: a piece of a stream is searched for a few byte patterns and passed on as it came.
Only a piece that may hold the usage figures or an error is taken apart. What was passed is remembered, to be
counted after the end if the backend reported no usage.
"""

import re

import msgspec

from billing.usage import Usage
from routing.endpoints.usage import decode_leniently, read_usage, texts_in
from routing.errors import OPENAI
from routing.sse import data_of, last_frame_end, split_frames
from teams.errors import GatewayError

_COMPACT_NULL_USAGE = b',"usage":null'  # as OpenAI writes it; a search ten times cheaper than the general one
_NULL_USAGE_END, _FRAME_CLOSE = _COMPACT_NULL_USAGE + b"}\n\n", b"}\n\n"
_NULL_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')
_USAGE, _ERROR = b'"usage"', b'"error"'
_DONE = re.compile(rb"^data: *\[DONE\]", re.MULTILINE)
_NO_ERROR = frozenset({b"null", b'""', b"{}", b"false"})
_KEPT_BYTES = 32 * 1024  # of passed frames before their text is taken out, to bound memory per open stream
MOST_FRAME_BYTES = 4 * 1024**2
DONE_FRAME = b"data: [DONE]\n\n"


def _done_at(data: bytes) -> int:
    """Where the closing frame begins; -1 when `[DONE]` is only the text of a message."""
    found = _DONE.search(data)
    return found.start() if found else -1


class _Chunk(msgspec.Struct):
    choices: msgspec.Raw = msgspec.Raw(b"null")
    usage: msgspec.Raw = msgspec.Raw(b"null")
    error: msgspec.Raw = msgspec.Raw(b"null")


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class FrameRelay:
    """See dialects/base.Relay.

    `wants_usage`: whether the caller asked for the usage frame; when not, it and the `"usage": null` of other
    frames are taken out.
    """

    def __init__(self, *, wants_usage: bool, max_frame_bytes: int = MOST_FRAME_BYTES) -> None:
        self._wants_usage = wants_usage
        self._max_frame_bytes = max_frame_bytes
        self._pending = b""
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._texts: list[str] = []
        self.is_done = False
        self.is_faulty = False
        self.usage: Usage | None = None
        self.is_usage_final = False  # it came in a frame of its own, as the last word of a backend does

    def feed(self, data: bytes) -> bytes:
        """Whole frames to pass on now, maybe none."""
        if self.is_done or self.is_faulty:
            return b""
        if self._pending:
            data = self._pending + data
        end = last_frame_end(data)
        data, self._pending = data[:end], data[end:]
        self.is_faulty = len(self._pending) > self._max_frame_bytes
        if self._is_ordinary(data):
            data = data if self._wants_usage else data.replace(_NULL_USAGE_END, _FRAME_CLOSE)
            self._keep(data)
            return data
        if b"[DONE]" in data and (done_at := _done_at(data)) >= 0:
            self.is_done = True
            data = data[:done_at]
        if _USAGE in data or _ERROR in data:
            data = self._inspect(data)
        self._keep(data)
        return data

    @staticmethod
    def _is_ordinary(data: bytes) -> bool:
        """Whether each frame closes with a null usage, as OpenAI writes all but the last two of a stream: then
        none of them is the closing frame or holds figures. Newlines in texts are escaped, so no text looks so."""
        frames = data.count(b"\n\n")
        return 0 < frames == data.count(_NULL_USAGE_END) and _ERROR not in data and b"\r" not in data

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be passed."""
        return self.is_done or self.is_faulty

    def end(self) -> bytes:
        """The backend closed its side: what is left of a last frame that lacks its blank line, if anything."""
        return self.feed(b"\n\n") if self._pending.strip() else b""

    def texts(self) -> list[str]:
        """See base.Relay; each frame is read once, and not in `feed`."""
        self._take_texts()
        return self._texts

    def closing(self, usage: Usage) -> bytes:
        """See base.Relay. The frame of the usage, if any, has been passed as the backend sent it."""
        return DONE_FRAME

    def failing(self, error: GatewayError) -> bytes:
        """See base.Relay."""
        return OPENAI.error_frame(error, "")

    def _inspect(self, data: bytes) -> bytes:
        """Take out null usage unless wanted; read, and maybe drop, each frame that names usage or an error."""
        if not self._wants_usage:
            data = data.replace(_COMPACT_NULL_USAGE, b"")
            if _USAGE not in data and _ERROR not in data:
                return data
        passed = []
        for frame in split_frames(data):
            passed.append(self._read_frame(frame) if _USAGE in frame or _ERROR in frame else frame)
            if self.is_faulty:
                self.is_done = False
                break
        return b"".join(passed)

    def _read_frame(self, frame: bytes) -> bytes:
        """What to pass of one frame: nothing of an error, nor of the usage frame of who did not ask for it."""
        chunk = _read_chunk(frame)
        if chunk is None:
            return frame
        if bytes(chunk.error) not in _NO_ERROR:
            self.is_faulty = True
            return b""
        if bytes(chunk.usage) == b"null":
            return frame if self._wants_usage else _NULL_USAGE.sub(b"", frame)
        has_choices = bytes(chunk.choices).translate(None, b" \r\n\t") not in {b"[]", b"null"}
        if usage := read_usage(chunk.usage):
            self.usage, self.is_usage_final = usage, not has_choices
        return frame if self._wants_usage or has_choices else b""

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > _KEPT_BYTES:
            self._take_texts()

    def _take_texts(self) -> None:
        for frame in split_frames(b"".join(self._kept)):
            chunk = _read_chunk(frame)
            if chunk is not None and bytes(chunk.choices) != b"null":
                self._texts += texts_in(decode_leniently(chunk.choices))
        self._kept.clear()
        self._kept_bytes = 0


def _read_chunk(frame: bytes) -> _Chunk | None:
    """The JSON of a frame's data lines; None for comments and for what is not a JSON object."""
    try:
        return _decode_chunk(data) if (data := data_of(frame)) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
