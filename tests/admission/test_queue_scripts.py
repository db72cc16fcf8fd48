"""Who stands where at a rule, and who goes first: the scripts on a real store."""

import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from billing.admission.holds import Patience
from billing.admission.rules import Budget, Limit, Owner, Rate, Rule, Scope, Unit
from billing.admission.scripts import read_sources
from billing.admission.windows import Period
from tests.admission.desk import DONE, HARD, HELD, RATE, Desk, without_rule

NOON_MS = 1_790_164_800_000  # 2026-09-23T12:00Z
WAITS = Patience(wait_ms=10_000, weight=4, places=100)
AT_ONCE = Patience(weight=4)
HIGH, LOW = Patience(wait_ms=10_000, weight=16, places=100), Patience(wait_ms=10_000, weight=1, places=100)
LEASE_MS = 2_000
A, B = 5, 6

MakeDesk = Callable[..., Desk]


def of_department(desk: Desk, *rules: Rule) -> None:
    desk.book.rules = rules
    desk.book.__post_init__()


def shared(kind: Rate, amount: int, scope: Scope = Scope.DEPARTMENT, number: int | None = None) -> Rule:
    return Limit(1, Owner(scope, _department if number is None else number), kind, amount)


_department = os.getpid() * 10_000 + 9_999  # of the desks made here


def at_a_time(amount: int) -> Rule:
    return shared(Rate.CONCURRENCY, amount)


@pytest.fixture
def make_shared(make_desk: MakeDesk) -> MakeDesk:
    """A department on a clock of its own, whose rules hold for all its teams."""

    def make(*rules: Rule, sources: dict[str, str] | None = None) -> Desk:
        return make_desk(*rules, now_ms=NOON_MS, department_id=_department, sources=sources)

    return make


def place(reply: Any) -> int:
    return int(reply[7])


class Room:
    """A limit of so many at a time: ends calls, so that others may begin."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.ended = 0

    def end(self, rid: str, **fields: Any) -> None:
        self.ended += 1
        assert self.desk.settle(self.ended, rid, 0, before=self.ended - 1, **fields)[0] == DONE


def test_who_comes_first_stands_first(make_shared: MakeDesk) -> None:
    desk = make_shared(at_a_time(1))
    room = Room(desk)
    assert desk.admit("running")[0] == DONE
    replies = [desk.admit(rid, patience=WAITS) for rid in ("first", "second", "third")]
    assert [(reply[0], place(reply)) for reply in replies] == [(RATE, 1), (RATE, 2), (RATE, 3)]
    room.end("running")
    assert place(desk.admit("third", patience=WAITS)) == 3
    assert place(desk.admit("second", patience=WAITS)) == 2
    assert desk.admit("first", patience=WAITS)[0] == DONE
    assert place(desk.admit("second", patience=WAITS)) == 1


@pytest.mark.parametrize("newcomer", [AT_ONCE, WAITS], ids=["not waiting", "waiting"])
def test_nobody_overtakes_those_who_wait(make_shared: MakeDesk, newcomer: Patience) -> None:
    for is_off in (False, True):
        sources = without_rule(read_sources(), "no-overtaking") if is_off else None
        desk = make_shared(at_a_time(1), sources=sources)
        room = Room(desk)
        desk.admit("running")
        desk.admit("first", patience=WAITS)
        room.end("running")
        assert desk.admit("newcomer", patience=newcomer)[0] == (DONE if is_off else RATE)
        desk.delete()


def test_who_fits_beside_all_before_goes_on(make_shared: MakeDesk) -> None:
    desk = make_shared(at_a_time(3))
    room = Room(desk)
    for number in range(3):
        desk.admit(f"running {number}")
    desk.admit("first", patience=WAITS)
    desk.admit("second", patience=WAITS)
    room.end("running 0")
    assert desk.admit("second", patience=WAITS)[0] == RATE
    room.end("running 1")
    assert desk.admit("second", patience=WAITS)[0] == DONE  # there is room for the first beside it
    assert desk.admit("first", patience=WAITS)[0] == DONE


def test_a_place_lapses_when_nobody_asks_again(make_shared: MakeDesk) -> None:
    for is_off in (False, True):
        sources = without_rule(read_sources(), "ticket-lease") if is_off else None
        desk = make_shared(at_a_time(1), sources=sources)
        room = Room(desk)
        desk.admit("running")
        desk.admit("first", patience=WAITS)
        desk.admit("second", patience=WAITS)
        desk.set_clock(NOON_MS + LEASE_MS - 1)
        desk.admit("second", patience=WAITS)
        room.end("running")
        assert desk.admit("second", patience=WAITS)[0] == RATE
        desk.set_clock(NOON_MS + LEASE_MS)
        assert desk.admit("second", patience=WAITS)[0] == (RATE if is_off else DONE)
        desk.delete()


def test_who_leaves_gives_up_the_place_at_once(make_shared: MakeDesk) -> None:
    desk = make_shared(at_a_time(1))
    room = Room(desk)
    desk.admit("running")
    desk.admit("first", patience=WAITS)
    desk.admit("second", patience=WAITS)
    room.end("running")
    assert desk.leave("first", patience=WAITS)[0] == DONE
    assert desk.leave("first", patience=WAITS)[0] == DONE
    assert desk.admit("second", patience=WAITS)[0] == DONE
    assert not [key for key in desk.everything() if b":q:" in key or b":ql:" in key]


def test_the_turns_of_those_who_left_are_used_by_their_team(make_shared: MakeDesk) -> None:
    for is_off in (False, True):
        sources = without_rule(read_sources(), "turn-given-up") if is_off else None
        desk = make_shared(at_a_time(1), sources=sources)
        desk.admit("running")
        for number in range(9):
            desk.admit(f"a{number}", patience=WAITS, team=A)
            desk.admit(f"b{number}", patience=WAITS, team=B)
        for number in range(9):
            desk.leave(f"a{number}", patience=WAITS, team=A)
        newcomer = desk.admit("again", patience=WAITS, team=A)
        assert place(newcomer) == (10 if is_off else 2)
        desk.delete()


def test_no_more_of_a_team_wait_than_may(make_shared: MakeDesk) -> None:
    few = Patience(wait_ms=10_000, weight=4, places=3)
    for is_off in (False, True):
        sources = without_rule(read_sources(), "queue-bound") if is_off else None
        desk = make_shared(at_a_time(1), sources=sources)
        desk.admit("running")
        places = [place(desk.admit(f"a{number}", patience=few, team=A)) for number in range(4)]
        assert places == ([1, 2, 3, 4] if is_off else [1, 2, 3, 0])
        assert place(desk.admit("a1", patience=few, team=A)) == 2  # who stands, stays
        assert place(desk.admit("b0", patience=few, team=B)) > 0  # it is the team's own bound
        if not is_off:
            desk.leave("a0", patience=few, team=A)
            assert place(desk.admit("a4", patience=few, team=A)) > 0
        desk.delete()


def test_a_spent_budget_ends_the_waiting(make_shared: MakeDesk) -> None:
    budget = Budget(2, Owner(Scope.DEPARTMENT, _department), Unit.MONEY, Period.DAY, 100)
    desk = make_shared(at_a_time(1), budget)
    room = Room(desk)
    desk.admit("running", 60)
    assert place(desk.admit("first", 30, patience=WAITS)) == 1
    room.end("running")
    desk.admit("running 2", 60)
    assert desk.settle(2, "running 2", 80, before=1)[0] == DONE
    assert desk.admit("first", 30, patience=WAITS)[0] == HARD
    assert not [key for key in desk.everything() if b":q:" in key]


def test_a_call_stands_only_where_it_is_refused(make_shared: MakeDesk) -> None:
    """Else a call that its own team's limit holds back would hold back other teams at a limit with room."""
    for is_off in (False, True):
        sources = without_rule(read_sources(), "stands-where-refused") if is_off else None
        own = shared(Rate.CONCURRENCY, 1, Scope.TEAM, A)
        desk = make_shared(at_a_time(2), own, sources=sources)
        room = Room(desk)
        desk.admit("a0", team=A)
        desk.admit("b0", team=B)
        assert place(desk.admit("a1", patience=WAITS, team=A)) == 1  # at both rules
        room.end("b0")
        assert place(desk.admit("a1", patience=WAITS, team=A)) == 1  # at its own team's
        assert desk.admit("b1", team=B)[0] == (RATE if is_off else DONE)
        desk.delete()


@pytest.mark.parametrize("unit", [Unit.MONEY, Unit.TOKENS])
def test_a_large_call_waits_for_money_that_is_held_and_is_not_starved(
    make_shared: MakeDesk, unit: Unit
) -> None:
    desk = make_shared(Budget(2, Owner(Scope.DEPARTMENT, _department), unit, Period.DAY, 100))
    room = Room(desk)
    desk.admit("running", 50, 50)
    large = desk.admit("large", 80, 80, patience=WAITS)
    assert (large[0], place(large)) == (HELD, 1)
    assert (
        desk.admit("small", 40, 40, patience=WAITS)[0] == HELD
    )  # it fits, but after the large one it would not
    assert (
        desk.admit("other", 40, 40, patience=WAITS, team=B)[0] == DONE
    )  # the turn of half as large a call is first
    room.end("running")
    room.end("other")
    assert desk.admit("newcomer", 30, 30)[0] == HELD
    assert desk.admit("large", 80, 80, patience=WAITS)[0] == DONE


def test_a_bucket_of_tokens_is_given_in_turn(make_shared: MakeDesk) -> None:
    desk = make_shared(shared(Rate.TOKENS, 600))
    assert desk.admit("burst", rate=600)[0] == DONE
    large = desk.admit("large", rate=300, patience=WAITS)
    assert (large[0], place(large), large[6]) == (RATE, 1, 30_000)
    small = [desk.admit(f"small {team}", rate=60, patience=WAITS, team=team) for team in (A, B)]
    assert [(reply[0], reply[6]) for reply in small] == [(RATE, 36_000), (RATE, 6_000)]
    desk.set_clock(NOON_MS + 1_900)
    assert [desk.admit(f"small {team}", rate=60, patience=WAITS, team=team)[6] for team in (A, B)] == [
        40_100,
        4_100,
    ]


def shares(
    desk: Desk, room: Room, teams: dict[int, Patience], calls: int, *, load: dict[int, int]
) -> Counter[int]:
    """How many calls of each team were let in, one at a time, while `load` of each always wait."""
    waiting: dict[int, list[str]] = {team: [] for team in teams}
    served: Counter[int] = Counter()
    desk.admit("running 0", team=99)
    running, made = "running 0", 0
    for _ in range(calls):
        for team, patience in teams.items():
            while len(waiting[team]) < load[team]:
                made += 1
                waiting[team].append(f"{team}-{made}")
                assert desk.admit(waiting[team][-1], patience=patience, team=team)[0] == RATE
        room.end(running)
        ((running, team),) = [
            (rid, team)
            for team, patience in teams.items()
            for rid in waiting[team]
            if desk.admit(rid, patience=patience, team=team)[0] == DONE
        ]
        waiting[team].remove(running)
        served[team] += 1
    return served


def test_equal_teams_get_equal_shares_whatever_their_load(make_shared: MakeDesk) -> None:
    desk = make_shared(at_a_time(1))
    served = shares(desk, Room(desk), {A: WAITS, B: WAITS}, 100, load={A: 20, B: 2})
    assert abs(served[A] - served[B]) <= 2


def test_high_goes_first_and_low_is_not_starved(make_shared: MakeDesk) -> None:
    desk = make_shared(at_a_time(1))
    teams = {A: HIGH, B: WAITS, 7: LOW}
    served = shares(desk, Room(desk), teams, 105, load={A: 5, B: 5, 7: 5})
    assert abs(served[A] - 80) <= 2
    assert abs(served[B] - 20) <= 2
    assert abs(served[7] - 5) <= 2
