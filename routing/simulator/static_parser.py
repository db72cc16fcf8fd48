"""The smallest HTTP/1.1 request parser that is right for requests split and joined anywhere."""

from typing import NamedTuple

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024


class BadRequestError(ValueError):
    """Bytes that are no HTTP/1.1 request, or one that is too large."""


class Request(NamedTuple):
    """One request; `head` is the request line and headers in lower case, `end` where the next one begins."""

    head: bytes
    body: bytes
    end: int
    keep_alive: bool


class Incomplete(NamedTuple):
    """A request whose end has not come: parse again when the buffer has `need_bytes`."""

    need_bytes: int
    wants_continue: bool


def parse_request(data: bytes, start: int) -> Request | Incomplete:
    """The request that begins at `start`; raises BadRequestError."""
    while data.startswith(b"\r\n", start):
        start += 2
    head_end = data.find(b"\r\n\r\n", start)
    if head_end < 0:
        if len(data) - start > MAX_HEAD_BYTES:
            raise BadRequestError("request head too large")
        return Incomplete(len(data) + 1, False)
    head = data[start:head_end].lower()
    keep_alive = b"\r\nconnection: close" not in head and b" http/1.0" not in head
    body_start = head_end + 4
    length_at = head.find(b"\r\ncontent-length:")
    if b"\r\ntransfer-encoding:" in head:
        return _parse_chunked(data, head, body_start, keep_alive)
    if length_at < 0:
        return Request(head, b"", body_start, keep_alive)
    length_end = head.find(b"\r\n", length_at + 17)
    text = head[length_at + 17 : length_end if length_end > 0 else None].strip()
    if not text.isdigit() or len(text) > 9 or (length := int(text)) > MAX_BODY_BYTES:
        raise BadRequestError("bad content-length")
    end = body_start + length
    if end > len(data):
        return Incomplete(end, b"\r\nexpect: 100-continue" in head and len(data) == body_start)
    return Request(head, data[body_start:end], end, keep_alive)


def _parse_chunked(data: bytes, head: bytes, at: int, keep_alive: bool) -> Request | Incomplete:
    if b"\r\ncontent-length:" in head or b"\r\ntransfer-encoding: chunked" not in head:
        raise BadRequestError("bad transfer-encoding")
    wants_continue = b"\r\nexpect: 100-continue" in head and len(data) == at
    parts: list[bytes] = []
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = _chunk_size(data[at:line_end])
        at = line_end + 2
        if size == 0:
            return _parse_trailers(data, head, b"".join(parts), at, keep_alive)
        if at + size + 2 > len(data):
            return Incomplete(at + size + 2, False)
        if data[at + size : at + size + 2] != b"\r\n":
            raise BadRequestError("bad chunk")
        parts.append(data[at : at + size])
        at += size + 2
        if at > MAX_BODY_BYTES:
            raise BadRequestError("request body too large")
    return Incomplete(len(data) + 1, wants_continue)


def _chunk_size(line: bytes) -> int:
    try:
        return int(line.partition(b";")[0], 16)
    except ValueError:
        raise BadRequestError("bad chunk size") from None


def _parse_trailers(data: bytes, head: bytes, body: bytes, at: int, keep_alive: bool) -> Request | Incomplete:
    while (line_end := data.find(b"\r\n", at)) >= 0:
        if line_end == at:
            return Request(head, body, at + 2, keep_alive)
        at = line_end + 2
    return Incomplete(len(data) + 1, False)
