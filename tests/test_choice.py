"""Which backend of a group is called, by each strategy."""

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from billing.money import Price
from outbound.breaker import RETURN_S, Outcome
from routing.choice import Chooser
from routing.health.board import Board, End
from routing.models import Strategy
from routing.snapshot import Member, ServedModel, Target

NOW = datetime.now(UTC)
CALLS = 20_000


def member(number: int, weight: int = 100, output: int = 1_000_000) -> Member:
    price = Price(number, NOW, 0, 0, 0, output)
    target = Target(
        backend_id=number,
        name=f"b{number}",
        provider="openai",
        base_url="https://a.example/v1",
        upstream_model="m",
        credential=None,
        connect_timeout_s=1,
        first_byte_timeout_s=1,
        idle_timeout_s=1,
        total_timeout_s=1,
        prices=(price,),
        longest_trip_s=300,
    )
    return Member(target, weight)


def model_of(strategy: str, *members: Member) -> ServedModel:
    return ServedModel(
        model_id=1,
        name="m",
        created_at=NOW,
        max_output_tokens=None,
        strategy=strategy,
        groups=(members,),
        targets=tuple(each.target for each in members),
        granted_teams=frozenset(),
    )


def draw(strategy: str, *members: Member, board: Board | None = None, calls: int = CALLS) -> Counter[int]:
    chooser, model = Chooser(board or Board(), draw=random.Random(7)), model_of(strategy, *members)
    return Counter(take(chooser, model, members) for _ in range(calls))


def take(chooser: Chooser, model: ServedModel, members: Sequence[Member]) -> int:
    return chooser.choose(model, chooser.willing(members) or members, NOW).target.backend_id


@pytest.mark.parametrize("strategy", [Strategy.WEIGHTED, Strategy.ROUND_ROBIN])
def test_calls_are_shared_by_weight(strategy: str) -> None:
    counts = draw(strategy, member(1, 50), member(2, 50), member(3, 100))
    assert counts[1] == pytest.approx(CALLS / 4, rel=0.02)
    assert counts[2] == pytest.approx(CALLS / 4, rel=0.02)
    assert counts[3] == pytest.approx(CALLS / 2, rel=0.02)


def test_turns_are_taken_smoothly() -> None:
    chooser, members = Chooser(Board()), (member(1, 200), member(2, 100))
    model = model_of(Strategy.ROUND_ROBIN, *members)
    assert [take(chooser, model, members) for _ in range(6)] == [1, 2, 1, 1, 2, 1]


def test_the_least_busy_is_called_and_equals_share() -> None:
    board, members = Board(), (member(1), member(2), member(3, 300))
    busy = [board.begin(members[0].target) for _ in range(2)]
    assert set(draw(Strategy.LEAST_BUSY, *members, board=board, calls=200)) == {2, 3}
    for attempt in busy:
        attempt.end(End(Outcome(200)))
    assert set(draw(Strategy.LEAST_BUSY, *members, board=board, calls=200)) == {1, 2, 3}


def test_the_faster_of_two_is_called_and_none_is_forgotten() -> None:
    board, members = Board(), (member(1), member(2), member(3))
    for each, seconds in zip(members, (0.1, 0.5, 2.0), strict=True):
        board.of(each.target).learn(seconds, 0.0)
    counts = draw(Strategy.LATENCY, *members, board=board)
    assert counts[1] > counts[2] > counts[3] > 0
    assert counts[1] == pytest.approx(CALLS * 5 / 9, rel=0.05)


def test_the_cheapest_is_called() -> None:
    assert set(draw(Strategy.COST, member(1, output=3_000_000), member(2, output=2_000_000), calls=100)) == {
        2
    }


@pytest.mark.parametrize("strategy", list(Strategy))
def test_one_that_returns_gets_its_part_only(strategy: str) -> None:
    now = 1000.0
    board, members = Board(clock=lambda: now), (member(1), member(2))
    breaker = board.of(members[0].target).breaker
    breaker.record(Outcome(429, 1), now)
    breaker.begin_probe(now, within_s=1)
    breaker.record(Outcome(200), now, is_probe=True)
    now += RETURN_S * 0.2
    counts = draw(strategy, *members, board=board, calls=2_000)
    assert counts[1] < 2_000 * 0.25
    assert draw(strategy, members[0], board=board, calls=10) == {1: 10}, "where it is alone it gets all"
