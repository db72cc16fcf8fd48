"""The right to make the one probe, as a worker's board asks for it and gives it back."""

import asyncio

import pytest

from outbound.breaker import Outcome
from routing.health.board import Board, End
from tests.test_choice import member

TARGET = member(1).target


class Watch:
    s = 100.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def board(watch: Watch) -> Board:
    """Its backend was tripped, and is due for a probe."""
    board = Board(clock=watch)
    board.begin(TARGET).end(End(Outcome(429, 2.0)))
    assert not board.is_probe_due(TARGET)
    watch.s += 2
    assert board.is_probe_due(TARGET)
    return board


async def test_one_call_probes_and_the_others_do_not(board: Board) -> None:
    assert await board.begin_probe(TARGET)
    assert (board.is_probe_due(TARGET), board.share(TARGET)) == (False, 0)


async def test_where_another_worker_probes_its_news_are_waited_for(board: Board, watch: Watch) -> None:
    async def no(backend_id: int, within_s: float) -> bool:
        return False

    board.may_probe = no
    assert not await board.begin_probe(TARGET)
    assert not board.is_probe_due(TARGET)
    watch.s += 1
    assert board.is_probe_due(TARGET)


async def test_a_caller_who_leaves_while_it_is_asked_gives_the_probe_back(board: Board) -> None:
    dropped: list[int] = []

    async def forever(backend_id: int, within_s: float) -> bool:
        await asyncio.Event().wait()
        return True

    board.may_probe, board.on_drop = forever, dropped.append
    asking = asyncio.create_task(board.begin_probe(TARGET))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert board.is_probe_due(TARGET)
    assert dropped == [TARGET.backend_id]


async def test_a_probe_that_tells_nothing_gives_it_back_too(board: Board) -> None:
    dropped: list[int] = []
    board.on_drop = dropped.append
    assert await board.begin_probe(TARGET)
    attempt = board.begin(TARGET, is_probe=True)
    attempt.end(End())
    attempt.end(End(Outcome(200)))  # only the first end counts
    assert board.is_probe_due(TARGET)
    assert (dropped, board.of(TARGET).under_way) == ([TARGET.backend_id], 0)
