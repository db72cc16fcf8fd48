"""Server-sent events on the wire: where frames end, and what one holds."""

import re
from itertools import pairwise

FRAME_END = re.compile(rb"\r?\n\r?\n")


def split_frames(data: bytes) -> list[bytes]:
    """The frames of `data`, each with its end; a rest without one comes last."""
    if b"\r" not in data:  # the usual case, and ten times faster than an expression
        *frames, rest = data.split(b"\n\n")
        whole = [frame + b"\n\n" for frame in frames]
        return [*whole, rest] if rest else whole
    ends = [0, *(match.end() for match in FRAME_END.finditer(data)), len(data)]
    return [data[start:end] for start, end in pairwise(ends) if start < end]


def last_frame_end(data: bytes) -> int:
    """Where the last whole frame of `data` ends; 0 when there is none."""
    last = data.rfind(b"\n\n")
    end = last + 2 if last >= 0 else 0
    if b"\r" in data and (last := data.rfind(b"\r\n\r\n")) >= 0:
        end = max(end, last + 4)
    return end


def data_of(frame: bytes) -> bytes:
    """The data of a frame, its lines joined; empty for comments."""
    return b"\n".join([line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")])
