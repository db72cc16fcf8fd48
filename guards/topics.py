"""Topics that administrators describe by examples: how near a text is to one, by wordllama's word vectors.

The vectors are in its package, and no network is asked. They know words, not grammar: "how to sell shares" and "how not
to" are the same topic.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+")
_ENOUGH, _LONGEST = 30, 400  # characters
_SHORTEST = 12
_NEAREST = 3
_SCALE = 2.5  # unrelated texts have a likeness of 0 to 0.2, those of one topic 0.2 to 0.5
_WORDS = re.compile(r"\s+")


class Topic(msgspec.Struct, frozen=True):
    """`examples`: texts about it."""

    name: str
    type: str
    examples: tuple[str, ...]


@cache
def _model() -> Any:
    import wordllama  # only where a topic is asked for: 50 MB

    # The folder that it would keep downloads in; its own has the tokenizer, which it looks for elsewhere.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


class TopicIndex:
    """Several topics. Takes half a second to make."""

    def __init__(self, topics: Sequence[Topic]) -> None:
        self._topics = topics
        self._vectors = [_embed(topic.examples) for topic in topics]

    def score(self, text: str) -> Iterator[tuple[Topic, float]]:
        """How near the nearest part of a text is to the three nearest examples of each topic, 0 to 1."""
        if len(text) < _SHORTEST or not text.strip():
            return
        parts = _embed(list(_parts(text)))
        for topic, vectors in zip(self._topics, self._vectors, strict=True):
            likeness = parts @ vectors.T  # a row for each part
            likeness.sort()
            nearest = float(likeness[:, -_NEAREST:].mean(axis=1).max())
            yield topic, min(1.0, max(0.0, _SCALE * nearest))


def max_nearness(topic: Topic, text: str) -> float:
    """How near the nearest part of a text is to one topic, 0 to 1."""
    return max((score for _, score in TopicIndex([topic]).score(text)), default=0.0)


def _embed(texts: Sequence[str]) -> Any:
    """A row of length one for each text."""
    return _model().embed([_WORDS.sub(" ", text) for text in texts], norm=True)


def _parts(text: str) -> Iterator[str]:
    """Sentences, each with those before it while they are short, and none too long."""
    part = ""
    for sentence in _SENTENCE.findall(text):
        for start in range(0, len(sentence), _LONGEST):
            part += sentence[start : start + _LONGEST]
            if len(part) >= _ENOUGH:
                yield part
                part = ""
    if part.strip():
        yield part
