"""The reservation of a stream that grows as the stream does, for teams that would rather not hold the most.

It begins with what answers of the model typically are, and is extended by a step before the text reaches its end.
A refused extension ends the stream once it has used what it holds, so a stream passes its budget by no more than
what flows in a step. Hidden reasoning does not flow: models that reason are to be reserved in full.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from billing.admission.holds import Amounts
from billing.estimate import Estimate

STEP_TOKENS = 1_000
_LAST_STEP_TOKENS = 250  # of a budget that does not pay a whole one
_LEAST_TOKENS = 64
_AHEAD = 250  # tokens that are left when the next step is asked for: two seconds of the fastest models' text
_BYTES_PER_TOKEN = 3
_FRAME_END = b"\n\n"
_MOST_ENVELOPE_BYTES = 400  # of a frame; a backend whose shortest frame is longer puts text into every frame


def first_step(estimate: Estimate, typical_tokens: int, choices: int) -> Estimate:
    """`estimate` with no more output than `typical_tokens` for each of `choices` answers."""
    typical = max(typical_tokens, _LEAST_TOKENS) * max(choices, 1)
    return msgspec.structs.replace(estimate, output_tokens=min(estimate.output_tokens, typical))


def tokens_of(texts: Iterable[str]) -> int:
    """Tokens of an answer's texts, each from a frame of its own: one a text at least, and one for three bytes,
    which is about 1.5 times the truth for English."""
    sizes = [len(text.encode("utf-8", "surrogatepass")) for text in texts if text]
    return max(len(sizes), sum(sizes) // _BYTES_PER_TOKEN)


class OutputGauge:
    """About how many tokens came in frames, from their bytes alone: half a microsecond a piece.

    A frame holds a token at least. What it has above the shortest frame seen is text, three bytes a token. It tells
    when to look at the texts themselves, seldom later than `tokens_of` them would.
    """

    def __init__(self) -> None:
        self._bytes = self._frames = 0
        self._shortest = _MOST_ENVELOPE_BYTES

    def feed(self, piece: bytes) -> int:
        """Take whole frames, as they are passed on; returns the tokens since the last `restart`."""
        if frames := piece.count(_FRAME_END):
            mean = len(piece) // frames
            if mean < self._shortest:
                self._shortest = mean
            self._frames += frames
            self._bytes += len(piece)
        text_bytes = self._bytes - self._frames * self._shortest
        return max(self._frames, text_bytes // _BYTES_PER_TOKEN)

    def restart(self) -> None:
        """What came so far is known from elsewhere."""
        self._bytes = self._frames = 0


@dataclass(slots=True)
class GrowingReserve:
    """What one stream holds. `held_tokens` are of output; `most_tokens` is where it ends, None where the caller set
    no bound: then nothing but the end of the stream stops it."""

    estimate: Estimate
    held_tokens: int
    most_tokens: int | None
    _is_refused: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all there can be is held."""
        return self.most_tokens is not None and self.held_tokens >= self.most_tokens

    @property
    def due_at(self) -> int:
        """How many tokens may have been produced before the next step is asked for. After a refusal that is all
        that is held: the budget may have room again by then."""
        return self.held_tokens if self._is_refused else self.held_tokens - self._ahead

    @property
    def now(self) -> Estimate:
        """The estimate of what is held."""
        return msgspec.structs.replace(self.estimate, output_tokens=self.held_tokens)

    def next_step(self, produced_tokens: int) -> Amounts | None:
        """What to extend the reservation by now; None while there is enough, or when all there can be is held."""
        if self.is_whole or produced_tokens < self.due_at:
            return None
        step = _LAST_STEP_TOKENS if self._is_refused else STEP_TOKENS
        to = max(self.held_tokens + step, produced_tokens + self._ahead)
        return self._output(to if self.most_tokens is None else min(to, self.most_tokens))

    def extended(self, by: Amounts) -> None:
        """The store has granted it."""
        self.held_tokens += by.tokens
        self._is_refused = False

    def refused(self, produced_tokens: int) -> bool:
        """The store has not. Returns whether the stream may go on: until all that is held is used."""
        self._is_refused = True
        return produced_tokens < self.held_tokens

    @property
    def _ahead(self) -> int:
        return min(_AHEAD, self.held_tokens // 4)

    def _output(self, to: int) -> Amounts:
        """The difference of two whole reserves, so that their sum is exactly the reserve of all."""
        return msgspec.structs.replace(self.estimate, output_tokens=to).most - self.now.most
