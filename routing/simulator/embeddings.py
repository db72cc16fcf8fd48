"""Embeddings a test can reason about: texts that share words have similar vectors."""

import base64
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from zlib import crc32

from routing.simulator.requests import EmbeddingRequest, Refusal
from routing.simulator.tokens import count_tokens

DEFAULT_DIMENSIONS = 256

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class EmbeddingInput:
    """One input: the words that place its vector and its tokens."""

    words: Sequence[str]
    tokens: int


def read_inputs(request: EmbeddingRequest) -> list[EmbeddingInput]:
    """The inputs of a request: one for a string or a list of numbers, else one per item; raises Refusal."""
    given = request.input
    if isinstance(given, str):
        return [_read_input(given)]
    if not given or len({type(item) for item in given}) > 1:
        raise Refusal(400, "'$.input' must be a string or a list of one kind, not empty.", param="input")
    if isinstance(given[0], int):
        return [_read_input([item for item in given if isinstance(item, int)])]
    return [_read_input(item) for item in given if not isinstance(item, int)]


def _read_input(item: str | list[int]) -> EmbeddingInput:
    if not item:
        raise Refusal(400, "'$.input' is invalid: an input cannot be empty.", param="input")
    if isinstance(item, str):
        return EmbeddingInput(_WORD.findall(item.lower()), count_tokens(item))
    return EmbeddingInput([str(number) for number in item], len(item))


def embed(words: Sequence[str], dimensions: int) -> list[float]:
    """A vector of length 1, of exact float32 values: each word adds 1 or -1 where its checksum says."""
    vector = [0.0] * dimensions
    for word in words:
        checksum = crc32(word.encode())
        vector[checksum % dimensions] += 1.0 if checksum >> 31 else -1.0
    norm = sqrt(sum(value * value for value in vector))
    if not norm:
        vector[0] = norm = 1.0
    return list(
        struct.unpack(f"<{dimensions}f", struct.pack(f"<{dimensions}f", *(value / norm for value in vector)))
    )


def encode_vector(vector: Sequence[float], encoding_format: str | None) -> Sequence[float] | str:
    """The vector as the client asked: floats, or base64 of little-endian float32; raises Refusal."""
    if encoding_format in (None, "float"):
        return vector
    if encoding_format != "base64":
        raise Refusal(400, f"Invalid value: {encoding_format!r}.", param="encoding_format")
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
