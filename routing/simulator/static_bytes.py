"""The fixed answers of the benchmark fast path, built once."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from routing.simulator.answers import Choice, Usage, make_text
from routing.simulator.wire import Identity, completion_body, encode, model_body, stream_frames, usage_body

FRAMES = 104
WRITES = 21

_IDENTITY = Identity("chatcmpl-000000000000000000000000", 1_700_000_000, "sim-small")
_PROMPT_TOKENS = 150
_PLAIN_TOKENS = 130
_OTHER_FRAMES = 3
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def json_answer(status: bytes, body: bytes) -> bytes:
    """A whole HTTP answer with a JSON body."""
    head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


def plain_answer() -> bytes:
    """A chat completion with a body of about 1.3 kB."""
    choice = Choice(make_text(b"static", _PLAIN_TOKENS), (), "stop", _PLAIN_TOKENS)
    usage = usage_body(Usage(_PROMPT_TOKENS, _PLAIN_TOKENS))
    return json_answer(b"200 OK", encode(completion_body(_IDENTITY, [choice], usage, logprobs=False)))


def stream_writes(asked_usage: bool) -> tuple[bytes, ...]:
    """A stream of 104 frames in 21 chunks: role, a token per frame, finish, usage if asked, [DONE]."""
    tokens = FRAMES - _OTHER_FRAMES - asked_usage
    choice = Choice(make_text(b"static", tokens), (), "stop", tokens)
    usage = usage_body(Usage(_PROMPT_TOKENS, tokens))
    frames = stream_frames(_IDENTITY, [choice], usage, asked_usage=asked_usage, logprobs=False)
    chunks = [b"%x\r\n%b\r\n" % (len(text), text) for text in _grouped([frame.data for frame in frames])]
    return _STREAM_HEAD + chunks[0], *chunks[1:-1], chunks[-1] + b"0\r\n\r\n"


def models_answer() -> bytes:
    """`GET /v1/models` with the one model there is."""
    return json_answer(b"200 OK", encode({"object": "list", "data": [model_body(_IDENTITY.model)]}))


def _grouped(frames: Sequence[bytes]) -> Iterator[bytes]:
    edges = [round(write * len(frames) / WRITES) for write in range(WRITES + 1)]
    for start, end in pairwise(edges):
        yield b"".join(b"data: %b\n\n" % frame for frame in frames[start:end])
