"""The right to make the one probe, as a worker's board asks for it and gives it back."""

import asyncio
import time

import pytest
import redis
from django.conf import settings

from outbound.breaker import Outcome, State
from routing.health.board import Board, Change, End
from routing.health.news import STATES, BackendNews
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


async def test_a_stream_that_is_a_probe_is_judged_by_its_beginning(board: Board) -> None:
    told: list[State] = []
    board.on_change = lambda change: told.append(change.state)
    assert await board.begin_probe(TARGET)
    attempt = board.begin(TARGET, is_probe=True)
    attempt.answered()
    attempt.answered()
    assert told == [State.RETURNING]
    assert board.share(TARGET) > 0
    attempt.end(End(Outcome(200)))
    assert told == [State.RETURNING]


async def test_the_right_to_probe_is_given_back_by_who_has_it() -> None:
    async def ignore(change: Change) -> None:
        pass

    boards = [Board(), Board()]
    mine, other = (BackendNews(each, settings.REDIS_URL, ignore) for each in boards)
    number = 987_654_321
    try:
        assert await boards[0].may_probe(number, 20)
        boards[1].on_drop(number)
        boards[1].on_change(Change(boards[1].hear_of(number), State.OPEN, 60.0, "", 1))
        await asyncio.sleep(0.3)
        assert not await boards[1].may_probe(number, 20)
        boards[0].on_change(Change(boards[0].hear_of(number), State.OPEN, 5.0, "", 1))  # ends sooner
        boards[0].on_drop(number)
        await asyncio.sleep(0.3)
        with redis.Redis.from_url(settings.REDIS_URL) as store:
            told = store.hget(STATES, str(number))
            assert isinstance(told, bytes)
            assert float(told.split()[1]) / 1000 - time.monotonic() > 50  # they have not heard its clock
            store.hdel(STATES, str(number))
        assert await boards[1].may_probe(number, 20)
        boards[1].on_drop(number)
        await asyncio.sleep(0.2)
    finally:
        await mine.close()
        await other.close()


async def test_a_probe_that_begins_well_and_fails_trips_again(board: Board, watch: Watch) -> None:
    assert await board.begin_probe(TARGET)
    attempt = board.begin(TARGET, is_probe=True)
    attempt.answered()
    watch.s += 6  # by now it would have all of its share
    assert board.share(TARGET) == 1
    attempt.end(End(Outcome(0)))
    assert board.share(TARGET) == 0
