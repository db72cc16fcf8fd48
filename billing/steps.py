"""The reservation of a stream that grows as the stream does, for teams that would rather not hold the most.

It begins with one step of output and is extended before the text reaches its end. A refused extension ends the
stream, so a stream passes its budget by no more than what flows in a step. Hidden reasoning does not flow: models
that reason are to be reserved in full.
"""

from dataclasses import dataclass, replace

from billing.admission.holds import Amounts
from billing.estimate import Estimate

STEP_TOKENS = 1_000
_AHEAD = 4  # a quarter of a step is left when the next is asked for: two seconds of the fastest models' text
_BYTES_PER_TOKEN = 3
_FRAME_END = b"\n\n"


def first_step(estimate: Estimate, choices: int) -> Estimate:
    """`estimate` with no more output than one step for each of `choices` answers."""
    return replace(estimate, output_tokens=min(estimate.output_tokens, STEP_TOKENS * max(choices, 1)))


class OutputGauge:
    """Tokens of a stream's answer so far, from the bytes of its frames: half a microsecond a piece.

    A frame holds a token at least. What it has above the shortest frame seen is text, three bytes a token. Answers
    of rarer scripts in frames of many tokens each are gauged too low, up to three times.
    """

    def __init__(self) -> None:
        self._bytes = self._frames = 0
        self._shortest = 0

    def feed(self, piece: bytes) -> None:
        """Whole frames, as they are passed on."""
        if frames := piece.count(_FRAME_END):
            mean = len(piece) // frames
            if not self._shortest or mean < self._shortest:
                self._shortest = mean
            self._frames += frames
            self._bytes += len(piece)

    @property
    def tokens(self) -> int:
        """So many have been produced, as far as can be told without reading them."""
        text_bytes = self._bytes - self._frames * self._shortest
        return max(self._frames, text_bytes // _BYTES_PER_TOKEN)


@dataclass(slots=True)
class GrowingReserve:
    """What one stream holds. `held_tokens` are of output; `most_tokens` is where it ends, None where the caller set
    no bound: then nothing but the end of the stream stops it."""

    estimate: Estimate
    held_tokens: int
    most_tokens: int | None

    def next_step(self, produced_tokens: int) -> Amounts | None:
        """What to extend the reservation by now; None while there is enough, or when all there can be is held."""
        step = STEP_TOKENS
        if self.most_tokens is not None:
            step = min(step, self.most_tokens - self.held_tokens)
        if step <= 0 or produced_tokens < self.held_tokens - STEP_TOKENS // _AHEAD:
            return None
        more = max(step, produced_tokens + STEP_TOKENS // _AHEAD - self.held_tokens)
        if self.most_tokens is not None:
            more = min(more, self.most_tokens - self.held_tokens)
        return self._output(self.held_tokens + more, self.held_tokens)

    def extended(self, by: Amounts) -> None:
        """The store has granted it."""
        self.held_tokens += by.tokens

    def _output(self, to: int, held: int) -> Amounts:
        """The difference of two whole reserves, so that their sum is exactly the reserve of all."""
        before, after = (replace(self.estimate, output_tokens=tokens).most for tokens in (held, to))
        return Amounts(after.money - before.money, after.tokens - before.tokens)
