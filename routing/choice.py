"""Which of a model's backends a call goes to: the first group that has any, and in it by the model's strategy."""

import random
from collections.abc import Sequence
from datetime import datetime

from billing.usage import Usage
from routing.health.board import Board, Health
from routing.models import Strategy
from routing.snapshot import Member, ServedModel

_TYPICAL = Usage(input_tokens=1000, output_tokens=300)  # what backends are compared at by their prices


class Chooser:
    """Chooses for one worker, over what its board says."""

    def __init__(self, board: Board, *, draw: random.Random | None = None) -> None:
        self._board = board
        self._draw = draw or random.Random()  # noqa: S311 - no secret
        self._turns: dict[int, dict[int, float]] = {}  # round robin: by model, what each backend has saved up

    def willing(self, ready: Sequence[Member]) -> Sequence[Member]:
        """Those of `ready`, members of a group that may be called now, that take this call: of those that are coming
        back, drawn by how far they are."""
        return [member for member in ready if self._is_willing(member)]

    def choose(self, model: ServedModel, willing: Sequence[Member], moment: datetime) -> Member:
        """One of `willing`, members of a group."""
        if len(willing) == 1:
            return willing[0]
        match model.strategy:
            case Strategy.ROUND_ROBIN:
                return self._take_turns(model, willing)
            case Strategy.LEAST_BUSY:
                return min(
                    self._shuffled(willing), key=lambda member: self._health(member).under_way / member.weight
                )
            case Strategy.LATENCY:
                return min(self._two(willing), key=self._slowness)
            case Strategy.COST:
                return min(self._shuffled(willing), key=lambda member: _price_nanousd(member, moment))
        return self._draw.choices(willing, [member.weight for member in willing])[0]

    def _health(self, member: Member) -> Health:
        return self._board.of(member.target)

    def _is_willing(self, member: Member) -> bool:
        share = self._board.share(member.target)
        return share >= 1 or self._draw.random() < share

    def _shuffled(self, members: Sequence[Member]) -> list[Member]:
        """In a random order, so that equals share."""
        return self._draw.sample(members, len(members))

    def _two(self, members: Sequence[Member]) -> Sequence[Member]:
        """Two of them by weight: the power of two choices."""
        weights = [member.weight for member in members]
        return self._draw.choices(members, weights, k=2)

    def _slowness(self, member: Member) -> float:
        health = self._health(member)
        return float(health.first_byte_s * (1 + health.under_way))

    def _take_turns(self, model: ServedModel, members: Sequence[Member]) -> Member:
        """Smooth weighted round robin: each saves up its weight, the richest is called and pays for all."""
        saved = self._turns.setdefault(model.model_id, {})
        for member in members:
            saved[member.target.backend_id] = saved.get(member.target.backend_id, 0) + member.weight
        chosen = max(members, key=lambda member: saved[member.target.backend_id])
        saved[chosen.target.backend_id] -= sum(member.weight for member in members)
        return chosen


def _price_nanousd(member: Member, moment: datetime) -> int:
    price = member.target.price_at(moment)
    assert price is not None, "only what can be priced is called"  # noqa: S101
    return price.cost(_TYPICAL).total_nanousd
