"""How likely a text is an attack: hashed character n-grams, a weight for each, the worst window counts.

All n-grams of a text are hashed by whole arrays, not one by one: 700 characters take some tens of microseconds.
"""

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from guards.injection.normalise import variants

BITS = 18
SIZES = (2, 3, 4, 5)  # each is made from the one before
WINDOW, CLOSE_WINDOW = 600, 150  # in bytes of a cleaned text
WEIGHTS = Path(__file__).with_name("weights.npz")
Array = Any  # numpy's own types say little more, and need a plug-in
_PRIMES = [
    np.uint64(prime)
    for prime in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
]
_SHIFT, _BASE = np.uint64(64 - BITS), np.uint64(257)


def hash_grams(text: str) -> list[Array]:
    """The places of the n-grams of a cleaned text that begin at each byte, by size."""
    data = np.frombuffer(f" {text} ".encode("utf-8", "replace"), dtype=np.uint8).astype(np.uint64)
    places, rolled = [], data
    for size, prime in zip(SIZES, _PRIMES, strict=True):
        if len(data) < size:
            break
        rolled = rolled[:-1] * _BASE + data[size - 1 :]
        places.append((rolled * prime >> _SHIFT).view(np.int64))
    return places


class Model:
    """Weights by place, and what a text without any n-gram would score."""

    def __init__(self, weights: Array, bias: float) -> None:
        self._weights = weights
        self._bias = bias

    def score(self, text: str) -> float:
        """0 to 1, of the worst window of the text in any of its variants."""
        return 1 / (1 + math.exp(-max(self.logit(each) for each in variants(text))))

    def logit(self, cleaned: str) -> float:
        """Of the worst window of one cleaned text."""
        places = hash_grams(cleaned)
        if not places:
            return self._bias
        length = len(places[0])
        sums = np.zeros(length + 1)
        for each in places:
            sums[1 : len(each) + 1] += self._weights.take(each)
        np.cumsum(sums, out=sums)
        said = float(sums[-1]) / math.sqrt(sum(map(len, places)))
        if length <= CLOSE_WINDOW:
            return self._bias + said
        for window in (WINDOW, CLOSE_WINDOW):
            if length > window:
                step, starts = window // 4, length - window
                most = (sums[window : starts + window : step] - sums[:starts:step]).max()
                best = max(float(most), float(sums[length] - sums[starts]))
                said = max(said, best / math.sqrt(len(SIZES) * window))
        return self._bias + said


@cache
def load_model() -> Model:
    """The one of this release. Raises OSError."""
    with np.load(WEIGHTS) as stored:
        return Model(stored["weights"].astype(np.float32) * stored["scale"], float(stored["bias"]))
