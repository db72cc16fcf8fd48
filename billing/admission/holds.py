"""A reservation, as a worker keeps it and as the store does; and the frames that end it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import msgspec

from billing.admission.rules import Dimensions, Unit


class HoldOwner(msgspec.Struct, frozen=True, array_like=True):
    """Whose call a hold is, and all that a record of it needs when its worker is gone.

    A worker is known by its spool: both begin and end with its process.
    """

    spool: str
    deadline_ms: int
    call: Dimensions


class Amounts(msgspec.Struct, frozen=True):
    """Money in nano-dollars, and tokens of prompt and answer."""

    money: int = 0
    tokens: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.money + other.money, self.tokens + other.tokens)

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.money - other.money, self.tokens - other.tokens)

    def of(self, unit: Unit) -> int:
        """The amount in one unit."""
        return self.money if unit is Unit.MONEY else self.tokens


Item = TypeVar("Item")


def in_pieces(items: Iterable[Item], size: int) -> Iterator[tuple[Item, ...]]:
    """`items` in groups of at most `size`."""
    source = iter(items)
    while piece := tuple(islice(source, size)):
        yield piece


class Ask(msgspec.Struct, frozen=True):
    """What one call wants to reserve: of budgets the most it may come to, of token rates what such calls use."""

    rid: str
    call: Dimensions
    most: Amounts
    rate_tokens: int = 0


class Patience(msgspec.Struct, frozen=True):
    """Whether a call may wait where it is refused for now: at most `wait_ms`, beside at most `places - 1` others of
    its team at one rule. Of what comes free there, teams get shares in proportion to their `weight`, which also
    holds for calls that do not wait: they overtake nobody whose turn is before theirs."""

    wait_ms: int = 0
    weight: int = 1
    places: int = 0


AT_ONCE = Patience()


@dataclass(slots=True)
class Hold:
    """An open reservation in its worker. `owner` is its HoldOwner, packed; `step` counts extensions."""

    ask: Ask
    admitted_ms: int
    amounts: Amounts
    owner: bytes
    step: int = 0


@dataclass(frozen=True, slots=True)
class StoredHold:
    """A hold as the janitor reads it."""

    rid: str
    admitted_ms: int
    amounts: Amounts
    owner: HoldOwner


def read_hold(rid: bytes, stored: bytes) -> StoredHold:
    """See scripts/prelude.lua. Raises ValueError for a form of another release."""
    head, _, _ = stored.partition(b"\n")
    form, admitted, money, tokens, _rate, _step, owner = head.split(b" ", 6)
    if form != b"1":
        raise ValueError(f"a hold of the unknown form {form!r}")
    return StoredHold(
        rid=rid.decode(),
        admitted_ms=int(admitted),
        amounts=Amounts(int(money), int(tokens)),
        owner=msgspec.json.decode(owner, type=HoldOwner),
    )


class EndFrame(msgspec.Struct, frozen=True):
    """The end of a call, as its spool numbers it. `record` is its ledger row, kept in the store until shipped;
    empty where the spool is durable by itself.

    `admitted_ms` is the store's time, which alone decides windows; `call` says who is charged.
    """

    seq: int
    rid: str
    admitted_ms: int
    call: Dimensions
    true: Amounts
    record: bytes = b""


class FramesGone(Exception):
    """A spool can no longer tell all that was asked: what is missing is in the ledger, so counters that are made
    anew hold it."""


class Frames(Protocol):
    """What a spool can tell: the ends of calls, in rising order of their numbers."""

    def after(self, seq: int, concerns: Callable[[Dimensions], bool]) -> Iterable[EndFrame]:
        """The frames above the number `seq` of the calls that an account is concerned with.

        They must be kept until they are shipped, and a while longer: a rebuild asks for them again. Raises
        FramesGone when some of them may be missing.
        """
