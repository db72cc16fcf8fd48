"""What a call may use and cost, before it is made: what admission reserves, and what an abandoned call is charged.

Pure arithmetic, and the little a worker learns. A prompt's tokens are first *bounded*: every tokenizer in use works
on bytes, so a text has no more tokens than bytes. That costs nothing, holds for every model and for hostile text,
and is about four times the truth. Only when a rule refuses the bound is the prompt *counted*, with tiktoken, which
costs about 60 microseconds per kilobyte and is exact for one family of models only (docs/explanation/estimates.md).
"""

from collections.abc import Sequence

import msgspec

from billing.admission.holds import Amounts
from billing.admission.rules import MOST_AMOUNT
from billing.images import Image, image_tokens
from billing.money import Price
from billing.usage import MOST_TOKENS, Usage

_LONGEST_ANSWER = 4_096  # in tokens, of who sets no bound
_MOST_BYTES_PER_TOKEN = (
    1_024  # o200k's longest token is 128 spaces, each of which JSON may write in six bytes
)
_TYPICAL_BYTES_PER_TOKEN = 4
_TYPICAL_ANSWER = 256  # in tokens, of a model nothing is known of
_MICRO = 1_000_000


class Extent(msgspec.Struct, frozen=True):
    """How large a prompt is, without having counted it: bytes of text, tokens that need no counting, images."""

    text_bytes: int = 0
    tokens: int = 0
    images: tuple[Image, ...] = ()


class Dearest(msgspec.Struct, frozen=True):
    """What a token of prompt and of answer can cost at most, in nano-dollars per million tokens.

    Each kind of token is rounded to whole nano-dollars by itself: `rounded_kinds` of them can be rounded up.
    """

    input: int
    output: int
    rounded_kinds: int

    def cost_nanousd(self, input_tokens: int, output_tokens: int) -> int:
        """No split of so many tokens over the kinds can cost more; where nothing is rounded, one costs as much."""
        exact = input_tokens * self.input + output_tokens * self.output
        return (2 * exact + self.rounded_kinds * _MICRO) // (2 * _MICRO)

    def or_more(self, other: "Dearest") -> "Dearest":
        """The higher of both, of every kind."""
        return Dearest(
            max(self.input, other.input),
            max(self.output, other.output),
            max(self.rounded_kinds, other.rounded_kinds),
        )


class Candidate(msgspec.Struct, frozen=True):
    """A backend that may serve the call: its provider's name of the model, and its price in force."""

    upstream_model: str
    price: Price


def dearest_of(prices: Sequence[Price]) -> Dearest:
    """The highest of every kind, over all of them: writing to a cache can cost more than reading a prompt."""
    most_input = most_output = most_rounded = 0
    for p in prices:
        most_input = max(most_input, p.input, p.cached_input, p.cache_write)
        most_output = max(most_output, p.output)
        rounded = (p.input, p.cached_input, p.cache_write, p.output)
        most_rounded = max(most_rounded, sum([price % _MICRO > 0 for price in rounded]))
    return Dearest(most_input, most_output, most_rounded)


def longest_answer(asked: int | None, model_limit: int | None) -> int:
    """Tokens one answer may have: what the caller asks for, else the least of the model's limit and 4,096.

    Hidden reasoning is part of it: providers count it in `max_completion_tokens`.
    """
    if asked is not None:
        return asked
    return min(model_limit or _LONGEST_ANSWER, _LONGEST_ANSWER)


class Estimate(msgspec.Struct, frozen=True):
    """The most a call can use and cost. `measured` is the prompt's bound or count as it was made, before what was
    learned of the model; `floor` is below any count of it."""

    input_tokens: int
    output_tokens: int
    dearest: Dearest
    rate_tokens: int
    measured: int
    floor: int
    is_counted: bool = False

    @property
    def most(self) -> Amounts:
        """What budgets are asked for."""
        return self._amounts(self.input_tokens)

    @property
    def least(self) -> Amounts:
        """No count of the prompt can bring `most` below this: what does not fit then is refused uncounted."""
        return self._amounts(min(self.floor, self.input_tokens))

    def usage_at(self, price: Price) -> Usage:
        """How the call is to stand in the ledger if its worker dies: all of the prompt as the dearest kind."""
        is_written = price.cache_write > max(price.input, price.cached_input)
        is_cached = not is_written and price.cached_input > price.input
        return Usage(
            input_tokens=self.input_tokens,
            cached_input_tokens=self.input_tokens if is_cached else 0,
            cache_write_tokens=self.input_tokens if is_written else 0,
            output_tokens=self.output_tokens,
            estimated=True,
        )

    def _amounts(self, input_tokens: int) -> Amounts:
        money = self.dearest.cost_nanousd(input_tokens, self.output_tokens)
        return Amounts(min(money, MOST_AMOUNT), input_tokens + self.output_tokens)


class _Ratio:
    """True tokens for each estimated one: their moving average and, as TCP does for its time-outs, four times their
    mean deviation on top, so that nearly all calls lie below it. Never below 1."""

    _WEIGHT = 1 / 8
    _LEAST = 100  # in tokens: of smaller prompts a constant difference would pass for a ratio

    def __init__(self, deviation: float) -> None:
        self._average = 1.0
        self._deviation = deviation

    def learn(self, estimated: int, true: int) -> None:
        missed = max(true - estimated, 0)
        error = 1 + missed / max(estimated, self._LEAST) - self._average
        self._average += self._WEIGHT * error
        self._deviation += self._WEIGHT * (abs(error) - self._deviation)

    def apply(self, tokens: int) -> int:
        ratio = self._average + 4 * self._deviation
        return tokens if ratio <= 1 else int(tokens * ratio) + 1


class _Model:
    """What was learned of one model. Other vendors' tokenizers make up to a third more tokens than tiktoken: so
    much caution is taken at first. The bound needs none, but where images or files are counted too low."""

    def __init__(self) -> None:
        self.bound = _Ratio(deviation=0.0)
        self.count = _Ratio(deviation=0.1)
        self.total: float | None = None
        self.answer: float | None = None
        self.reasons = False


class Estimator:
    """Estimates calls, and learns from their ends. One per worker; a few hundred bytes per model."""

    _WEIGHT = 1 / 16

    def __init__(self) -> None:
        self._models: dict[str, _Model] = {}

    def bound(
        self, model: str, extent: Extent, output_tokens: int, candidates: Sequence[Candidate]
    ) -> Estimate:
        """The first estimate of a call of `model` that one of `candidates` will serve."""
        fixed = extent.tokens + _images(extent.images, candidates)
        measured = fixed + extent.text_bytes
        learned = self._models.get(model)
        expected = measured if learned is None else learned.bound.apply(measured)
        input_tokens, output_tokens = min(expected, MOST_TOKENS), min(output_tokens, MOST_TOKENS)
        return Estimate(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            dearest=dearest_of([candidate.price for candidate in candidates]),
            rate_tokens=min(self._typical(learned, extent, fixed), input_tokens + output_tokens),
            measured=measured,
            floor=fixed + -(-extent.text_bytes // _MOST_BYTES_PER_TOKEN),
        )

    def counted(
        self,
        model: str,
        first: Estimate,
        count: int,
        images: Sequence[Image],
        candidates: Sequence[Candidate],
    ) -> Estimate:
        """`first` made sharper by `count`, the prompt's tokens but for its images. Never above `first`."""
        measured = count + _images(images, candidates)
        learned = self._models.get(model) or _Model()
        input_tokens = min(learned.count.apply(measured), first.input_tokens)
        return msgspec.structs.replace(first, input_tokens=input_tokens, measured=measured, is_counted=True)

    def learn(self, model: str, estimate: Estimate, true: Usage) -> None:
        """A call has ended with the backend's own figures."""
        if (known := self._models.get(model)) is None:
            known = self._models[model] = _Model()
        known.reasons = known.reasons or true.reasoning_tokens > 0
        ratio = known.count if estimate.is_counted else known.bound
        ratio.learn(estimate.measured, true.input_tokens)
        total = true.input_tokens + true.output_tokens
        known.total = self._moved(known.total, total)
        known.answer = self._moved(known.answer, true.output_tokens)

    def typical_answer(self, model: str) -> int:
        """Tokens of output that calls of the model have on average."""
        known = self._models.get(model)
        return _TYPICAL_ANSWER if known is None or known.answer is None else round(known.answer)

    @classmethod
    def _moved(cls, average: float | None, figure: int) -> float:
        return figure if average is None else average + cls._WEIGHT * (figure - average)

    def reasons(self, model: str) -> bool:
        """Whether the model has been seen to bill for reasoning."""
        known = self._models.get(model)
        return known is not None and known.reasons

    @staticmethod
    def _typical(learned: _Model | None, extent: Extent, fixed: int) -> int:
        """What limits of tokens per minute are asked for: what calls of the model use on average."""
        if learned is None or learned.total is None:
            return fixed + extent.text_bytes // _TYPICAL_BYTES_PER_TOKEN + _TYPICAL_ANSWER
        return max(1, round(learned.total))


def _images(images: Sequence[Image], candidates: Sequence[Candidate]) -> int:
    models = {candidate.upstream_model for candidate in candidates} if images else ()
    return max((sum(image_tokens(i, m) for i in images) for m in models), default=0)
