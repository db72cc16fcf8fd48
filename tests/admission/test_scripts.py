"""The scripts on a real store: all or nothing, exact beyond doubles, the same when sent again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.admission.holds import Amounts
from billing.admission.rules import Budget, Limit, Owner, Rate, Scope, Unit
from billing.admission.scripts import read_sources
from billing.admission.windows import Period
from tests.admission.desk import (
    CHANGED,
    DONE,
    GAP,
    HARD,
    HELD,
    KNOWN,
    LATE,
    LOST_COUNTER,
    NOTHING,
    OTHER_EPOCH,
    OTHER_USER,
    OTHER_WINDOW,
    RATE,
    Desk,
    is_error,
    without_rule,
)

MakeDesk = Callable[..., Desk]
TEAM, KEY = Owner(Scope.TEAM, 5), Owner(Scope.KEY, 2)
NOON_MS = 1_790_164_800_000  # 2026-09-23T12:00Z
HOUR_MS = 3_600_000


def money(amount: int, owner: Owner = TEAM, period: Period = Period.MONTH, *, hard: bool = True) -> Budget:
    return Budget(1, owner, Unit.MONEY, period, amount, is_hard=hard)


def rate(kind: Rate, amount: int) -> Limit:
    return Limit(1, KEY, kind, amount)


# --- admit ---------------------------------------------------------------------------------------


def test_a_call_that_fits_is_held_at_every_rule(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100), money(50, KEY), Budget(1, KEY, Unit.TOKENS, Period.DAY, 500))
    assert desk.admit("r1", 30, 200)[0] == DONE
    assert [desk.counter(place) for place in range(3)] == [(0, 0, 30), (0, 0, 30), (0, 0, 200)]


def test_a_refusal_by_one_rule_takes_from_none(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.REQUESTS, 10), rate(Rate.CONCURRENCY, 3), money(100), money(20, KEY))
    before = desk.everything()
    reply = desk.admit("r1", 30)
    assert reply[0] == HARD
    assert reply[2] == 3
    assert desk.everything() == before


def test_spent_is_final_and_held_may_come_back(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.admit("r1", 20)
    desk.settle(1, "r1", 20)
    desk.admit("r2", 75)
    assert desk.admit("r3", 10)[0] == HELD
    assert desk.admit("r4", 81)[0] == HARD
    assert desk.admit("r5", 5)[0] == DONE
    desk.settle(2, "r2", 1)
    assert desk.admit("r3", 10)[0] == DONE


def test_a_refusal_tells_its_figures(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100), now_ms=NOON_MS)
    desk.admit("r1", 20)
    desk.settle(1, "r1", 20)
    desk.admit("r2", 70)
    month_left_ms = (30 - 23) * 24 * HOUR_MS + 12 * HOUR_MS
    assert desk.admit("r3", 90) == [HARD, NOON_MS, 0, b"0", b"20", b"70", month_left_ms, 0]


def test_of_several_refusals_the_gravest_and_longest_is_told(make_desk: MakeDesk) -> None:
    desk = make_desk(
        rate(Rate.REQUESTS, 1),
        money(5, period=Period.DAY),
        money(5, KEY, Period.YEAR),
        money(5, KEY, Period.DAY),
    )
    assert desk.admit("r1", 5)[0] == DONE
    reply = desk.admit("r2", 6)
    assert (reply[0], reply[2]) == (HARD, 2)


def test_a_soft_budget_counts_and_never_refuses(make_desk: MakeDesk) -> None:
    desk = make_desk(money(10, hard=False))
    assert desk.admit("r1", 500)[0] == DONE
    assert desk.counter() == (0, 0, 500)


def test_a_late_call_is_not_admitted(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100), now_ms=NOON_MS)
    before = desk.everything()
    assert desk.admit("r1", not_after=NOON_MS - 1) == [LATE, NOON_MS]
    assert desk.everything() == before
    assert desk.admit("r1", not_after=NOON_MS)[0] == DONE


def test_the_same_call_twice_is_held_once(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100), rate(Rate.REQUESTS, 10))
    desk.admit("r1", 40)
    before = desk.everything()
    assert desk.admit("r1", 40)[0] == KNOWN
    assert desk.everything() == before


def test_another_epoch_or_server_life_admits_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.epoch = 2
    assert desk.admit("r1")[0] == OTHER_EPOCH
    desk.epoch = 1
    desk.raw("HSET", f"{{d{desk.department_id}}}:e", "run", "0" * 40)
    assert desk.admit("r1")[0] == OTHER_EPOCH
    desk.delete()
    assert desk.admit("r1")[0] == OTHER_EPOCH


@pytest.mark.parametrize(
    ("offset_ms", "code"),
    [(-1, OTHER_WINDOW), (0, DONE), (HOUR_MS - 1, DONE), (HOUR_MS, OTHER_WINDOW)],
)
def test_a_window_admits_from_its_start_to_before_its_end(
    make_desk: MakeDesk, offset_ms: int, code: int
) -> None:
    desk = make_desk(money(100, period=Period.HOUR), now_ms=NOON_MS - HOUR_MS)
    desk.planned_s = NOON_MS // 1000
    desk.set_clock(NOON_MS + offset_ms)
    assert desk.admit("r1")[0] == code


def test_a_counter_that_was_begun_and_is_gone_is_not_a_fresh_budget(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.admit("r1")
    desk.raw("DEL", desk.key(desk.plan().names[0]))
    assert desk.admit("r2")[0] == LOST_COUNTER


def test_a_window_that_was_over_when_the_epoch_began_is_not_a_fresh_budget(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100, period=Period.HOUR), now_ms=NOON_MS)
    desk.set_clock(NOON_MS - 1)  # a clock that goes back
    assert desk.admit("r1")[0] == LOST_COUNTER


def test_counters_outlive_their_window_by_eight_days(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100, period=Period.HOUR))
    desk.admit("r1")
    plan = desk.plan()
    assert abs(int(desk.raw("EXPIRETIME", desk.key(plan.names[0]))) - plan.end - 8 * 86400) <= 1


# --- figures beyond doubles ----------------------------------------------------------------------

EDGES = [10**14, 10**14 + 1, 2**53 - 1, 2**53, 2**53 + 1, 9 * 10**18 - 1]


@pytest.mark.parametrize("edge", EDGES)
def test_amounts_are_exact_beyond_doubles(make_desk: MakeDesk, edge: int) -> None:
    desk = make_desk(money(9 * 10**18))
    assert desk.admit("r1", edge)[0] == DONE
    assert desk.counter() == (0, 0, edge)
    assert desk.settle(1, "r1", edge - 1)[0] == DONE
    assert desk.counter() == (0, edge - 1, 0)


@pytest.mark.parametrize("limit", EDGES)
def test_a_budget_is_met_to_the_last_unit(make_desk: MakeDesk, limit: int) -> None:
    desk = make_desk(money(limit))
    half = limit // 2
    desk.admit("r1", half)
    desk.settle(1, "r1", half)
    assert desk.admit("r2", limit - half + 1)[0] == HARD
    assert desk.admit("r2", limit - half)[0] == DONE
    assert desk.admit("r3", 1)[0] == HELD
    assert desk.admit("r4", 0)[0] == DONE


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.one_of(st.integers(1, 1000), st.integers(10**14, 9 * 10**18)),
    used=st.integers(0, 9 * 10**18),
    held=st.integers(0, 9 * 10**18),
    slack=st.integers(-3, 3),
)
def test_the_decision_is_that_of_whole_numbers(
    make_desk: MakeDesk, limit: int, used: int, held: int, slack: int
) -> None:
    used, held = used % (limit + 1), held % (limit + 1)
    ask = max(0, limit - used - (held if slack % 2 else 0) + slack)
    desk = make_desk(money(limit))
    name = desk.key(desk.plan().names[0])
    desk.raw("HSET", name, "b", str(used // 3), "u", str(used - used // 3), "r", str(held))
    desk.raw("HSET", f"{{d{desk.department_id}}}:1:w", "x", "x")
    desk.raw("DEL", f"{{d{desk.department_id}}}:1:w")
    reply = desk.admit("r1", ask)
    if ask + held > 92 * 10**17:
        assert is_error(reply)
        return
    expected = HARD if used + ask > limit else HELD if used + held + ask > limit else DONE
    assert reply[0] == expected


def test_a_counter_never_overflows(make_desk: MakeDesk) -> None:
    desk = make_desk(money(9 * 10**18, hard=False), money(100, KEY, hard=False))
    desk.admit("r1", 9 * 10**18)
    before = desk.everything()
    assert is_error(desk.admit("r2", 9 * 10**18))
    assert desk.everything() == before


# --- poison --------------------------------------------------------------------------------------

FULL = (money(100), Budget(1, KEY, Unit.TOKENS, Period.DAY, 500), rate(Rate.REQUESTS, 9), rate(Rate.TOKENS, 900),
        rate(Rate.CONCURRENCY, 9))  # fmt: skip
SUFFIXES = ["r", "t", "a", "w", *(f"rule {place}" for place in range(len(FULL)))]


def poison(desk: Desk, suffix: str, field: str | None) -> None:
    place = suffix.removeprefix("rule ")
    key = desk.key(desk.plan().names[int(place)] if place != suffix else suffix)
    if field is None:
        desk.raw("DEL", key)
        desk.raw("LPUSH", key, "poison")
    else:
        desk.raw("HSET", key, field, "poison")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_key_of_a_wrong_type_never_leaves_a_half(make_desk: MakeDesk, suffix: str) -> None:
    desk = make_desk(*FULL)
    desk.admit("r1")
    poison(desk, suffix, None)
    actions: list[Callable[[], Any]] = [
        lambda: desk.admit("r2"),
        lambda: desk.settle(1, "r1", 7),
        lambda: desk.settle(1, "r9", 7),
        lambda: desk.declare("r3", 5),
        lambda: desk.sweep("r1", 5),
    ]
    for action in actions:
        before = desk.everything()
        reply = action()
        assert is_error(reply) == (desk.everything() == before) or reply[0] == NOTHING


@pytest.mark.parametrize("field", ["u", "r"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_counter_that_holds_no_number_never_leaves_a_half(
    make_desk: MakeDesk, place: int, field: str
) -> None:
    desk = make_desk(*FULL)
    desk.admit("r1")
    poison(desk, f"rule {place}", field)
    before = desk.everything()
    assert is_error(desk.admit("r2"))
    assert is_error(desk.settle(1, "r1", 7))
    assert is_error(desk.sweep("r1", 7))
    assert desk.everything() == before


# --- rates ---------------------------------------------------------------------------------------


def test_a_bucket_refills_with_the_clock(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.REQUESTS, 6), now_ms=NOON_MS)
    assert [desk.admit(f"r{number}")[0] for number in range(7)] == [DONE] * 6 + [RATE]
    assert desk.admit("r8")[6] == 10_000
    desk.set_clock(NOON_MS + 9_999)
    assert desk.admit("r8") == [RATE, NOON_MS + 9_999, 0, b"0", b"6", b"0", 1, 0]
    desk.set_clock(NOON_MS + 10_000)
    assert desk.admit("r8")[0] == DONE


def test_tokens_given_too_much_come_back_and_too_little_are_owed(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.TOKENS, 600), now_ms=NOON_MS)
    desk.admit("r1", rate=400)
    assert desk.admit("r2", rate=300)[0] == RATE
    desk.settle(1, "r1", 0, 100)
    assert desk.admit("r2", rate=500)[0] == DONE
    desk.settle(2, "r2", 0, 650)
    reply = desk.admit("r3", rate=1)
    assert (reply[0], reply[6]) == (RATE, 15_100)  # it owes 150, at 10 a second


def test_debts_and_credits_are_bounded_by_the_capacity(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.TOKENS, 600), now_ms=NOON_MS)
    desk.admit("r1", rate=1)
    desk.settle(1, "r1", 0, 10**9)
    assert desk.admit("r2", rate=600)[6] == 120_000
    desk.set_clock(NOON_MS + 10 * HOUR_MS)
    assert desk.admit("r2", rate=600)[0] == DONE


def test_one_call_larger_than_the_rate_passes_a_full_bucket(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.TOKENS, 600), now_ms=NOON_MS)
    assert desk.admit("r1", rate=10**6)[0] == DONE
    assert desk.admit("r2", rate=1)[0] == RATE


def test_a_level_from_the_future_is_forgotten(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.REQUESTS, 1), now_ms=NOON_MS)
    desk.admit("r1")
    desk.set_clock(NOON_MS - HOUR_MS)
    assert desk.admit("r2")[0] == DONE


def test_rates_of_a_booked_or_lost_hold_stay(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.TOKENS, 600), now_ms=NOON_MS)
    desk.settle(1, "unknown", 0, 600)
    assert desk.admit("r1", rate=600)[0] == DONE


def test_calls_at_a_time_are_freed_by_settling_and_by_sweeping(make_desk: MakeDesk) -> None:
    desk = make_desk(rate(Rate.CONCURRENCY, 2))
    assert [desk.admit(rid)[0] for rid in ("r1", "r2", "r3")] == [DONE, DONE, RATE]
    desk.settle(1, "r1", 0)
    assert desk.admit("r3")[0] == DONE
    desk.sweep("r2", 0)
    assert desk.admit("r4")[0] == DONE


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 20_000), st.integers(1, 80), st.integers(0, 160)), min_size=1, max_size=40
    )
)
def test_no_minute_gets_more_than_twice_the_capacity_and_the_surplus(
    make_desk: MakeDesk, steps: list[tuple[int, int, int]]
) -> None:
    capacity = 60
    desk = make_desk(rate(Rate.TOKENS, capacity), now_ms=NOON_MS)
    now, used = NOON_MS, []
    for number, (wait_ms, ask, true) in enumerate(steps, 1):
        now += wait_ms
        desk.set_clock(now)
        if desk.admit(f"r{number}", 0, 0, rate=ask)[0] == DONE:
            used.append((now, true))
            desk.settle(number, f"r{number}", 0, true)
    for start, _ in used:
        within = [true for moment, true in used if start <= moment < start + 60_000]
        assert sum(within) <= 2 * capacity + max(within)


# --- settle --------------------------------------------------------------------------------------


def test_settling_again_changes_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk(*FULL)
    desk.admit("r1", 10, 10, rate=10)
    assert desk.settle(1, "r1", 7, 3, record=b"row")[0] == DONE
    before = desk.everything()
    assert desk.settle(1, "r1", 7, 3, record=b"row")[0] == NOTHING
    assert desk.settle(1, "r9", 99)[0] == NOTHING
    assert desk.everything() == before


def test_a_call_without_a_hold_is_booked_whole(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    assert desk.settle(1, "r1", 37)[0] == DONE
    assert desk.counter() == (0, 37, 0)
    assert desk.admit("r2", 64)[0] == HARD


def test_a_missing_frame_stops_those_after_it(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.settle(3, "r1", 1)
    assert desk.settle(9, "r3", 1, before=5)[::2] == [GAP, 3]
    assert desk.settle(5, "r2", 1, before=3)[0] == DONE
    assert desk.settle(9, "r3", 1, before=5)[0] == DONE


def test_spools_are_numbered_apart(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.settle(8, "r1", 1)
    assert desk.settle(2, "r2", 1, spool="s2")[0] == DONE


def test_a_frame_waits_until_nothing_older_can_hold_its_call(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100), now_ms=NOON_MS)
    assert desk.settle(1, "r1", 0, not_before=NOON_MS)[0] == LATE
    desk.set_clock(NOON_MS + 1)
    assert desk.settle(1, "r1", 0, not_before=NOON_MS)[0] == DONE
    assert desk.admit("r1", not_after=NOON_MS)[0] == LATE


def test_a_call_is_booked_where_it_was_held(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100, period=Period.HOUR), now_ms=NOON_MS + HOUR_MS - 1)
    desk.admit("r1", 40)
    first = desk.key(desk.plan().names[0])
    desk.set_clock(NOON_MS + HOUR_MS)
    desk.settle(1, "r1", 30)
    assert desk.raw("HMGET", first, "u", "r") == [b"30", b"0"]
    assert desk.counter() == (0, 0, 0)


def test_the_record_stays_until_it_is_shipped(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.admit("r1")
    desk.settle(1, "r1", 5, record=b"the row")
    assert desk.raw("HGET", f"{{d{desk.department_id}}}:s", "r1") == b"the row"


# --- sweep and declare ---------------------------------------------------------------------------


def test_a_swept_call_that_ends_after_all_is_booked_once(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000))
    desk.admit("r1", 500)
    assert desk.sweep("r1", 500)[0] == DONE
    assert desk.counter() == (0, 500, 0)
    assert desk.sweep("r1", 500)[0] == NOTHING
    assert desk.settle(1, "r1", 37)[0] == DONE
    assert desk.counter() == (0, 37, 0)
    assert desk.settle(1, "r1", 37)[0] == NOTHING


def test_sweeping_a_settled_call_changes_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000))
    desk.admit("r1", 500)
    desk.settle(1, "r1", 37)
    before = desk.everything()
    assert desk.sweep("r1", 500)[0] == NOTHING
    assert desk.everything() == before


def test_holds_of_nothing_are_swept_and_settled(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000))
    desk.admit("r1", 0)
    desk.admit("r2", 0)
    assert desk.sweep("r1", 0)[0] == DONE
    assert desk.settle(1, "r2", 0)[0] == DONE
    assert desk.settle(2, "r1", 0)[0] == DONE


def test_a_young_epoch_is_not_swept(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000), now_ms=NOON_MS)
    desk.admit("r1", 500)
    desk.set_clock(NOON_MS + 19_999)
    assert desk.sweep("r1", 500, age=20_000)[0] == LATE
    desk.set_clock(NOON_MS + 20_000)
    assert desk.sweep("r1", 500, age=20_000)[0] == DONE


def test_an_open_call_is_held_again_once(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000), rate(Rate.CONCURRENCY, 5))
    assert desk.declare("r1", 300)[0] == DONE
    assert desk.declare("r1", 300)[0] == KNOWN
    assert desk.counter() == (0, 0, 300)
    assert desk.settle(1, "r1", 200)[0] == DONE
    assert desk.counter() == (0, 200, 0)
    assert desk.raw("SCARD", desk.key("k:k:2")) == 0


def test_a_call_that_the_ledger_counts_already_is_not_held_again(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000))
    desk.raw("HSET", desk.key("t"), "r1", "500 0")
    assert desk.declare("r1", 300)[0] == NOTHING
    assert desk.counter() == (0, 0, 0)


def test_a_late_declaration_holds_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000), now_ms=NOON_MS)
    assert desk.declare("r1", 300, not_after=NOON_MS - 1)[0] == LATE
    assert desk.counter() == (0, 0, 0)


# --- extend --------------------------------------------------------------------------------------


def test_an_extension_holds_more_once(make_desk: MakeDesk) -> None:
    desk = make_desk(money(2**60), Budget(1, KEY, Unit.TOKENS, Period.DAY, 500))
    held, more = Amounts(2**55 + 1, 10), Amounts(2**55 + 2, 20)
    desk.admit("r1", held.money, held.tokens)
    assert desk.extend("r1", held, more)[0] == DONE
    assert desk.extend("r1", held, more)[0] == KNOWN
    assert desk.counter(0) == (0, 0, 2**56 + 3)
    assert desk.counter(1) == (0, 0, 30)
    changed, _, *stored = desk.extend("r1", held, more, step=7)
    assert (changed, stored) == (CHANGED, [b"1", b"%d" % (2**56 + 3), b"30"])
    desk.settle(1, "r1", 5, 5)
    assert desk.counter(0) == (0, 5, 0)
    assert desk.extend("r1", held + more, more, step=1)[0] == NOTHING


def test_an_extension_that_does_not_fit_changes_nothing(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.admit("r1", 40)
    desk.admit("r2", 40)
    before = desk.everything()
    assert desk.extend("r1", Amounts(40, 10), Amounts(30, 0))[0] == HELD
    assert desk.extend("r1", Amounts(40, 10), Amounts(61, 0))[0] == HARD
    assert desk.everything() == before
    assert desk.extend("r1", Amounts(40, 10), Amounts(20, 0))[0] == DONE


# --- rebuild -------------------------------------------------------------------------------------


def test_a_rebuild_opens_with_what_the_ledger_says(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    desk.epoch = 2
    plan = desk.plan()
    assert desk.run("begin", 2, "n2")[0] == DONE
    assert desk.admit("r1")[0] == OTHER_EPOCH
    assert desk.settle(1, "r1", 1)[0] == OTHER_EPOCH
    assert desk.run("write", "n2", "counters", plan.names[0], 60, plan.end)[0] == DONE
    assert desk.run("write", "n2", "watermarks", "s1", 7)[0] == DONE
    assert desk.run("write", "n2", "counted", "r7", "25 5")[0] == DONE
    assert desk.run("commit", "n2", 1, 1, 1)[0] == DONE
    assert desk.admit("r1")[0] == OTHER_EPOCH
    assert desk.settle(7, "r6", 9)[0] == NOTHING
    assert desk.settle(8, "r7", 20)[0] == DONE
    assert desk.run("ready", "n2")[0] == DONE
    assert desk.counter() == (60, -5, 0)
    assert desk.admit("r1", 46)[0] == HARD
    assert desk.admit("r1", 45)[0] == DONE


def test_only_the_rebuild_under_way_writes(make_desk: MakeDesk) -> None:
    desk = make_desk(money(100))
    assert desk.run("begin", 2, "n2")[0] == DONE
    assert desk.run("begin", 3, "n3")[0] == DONE
    assert desk.run("begin", 2, "n2")[0] == OTHER_EPOCH
    before = desk.everything()
    assert desk.run("write", "n2", "watermarks", "s1", 7)[0] == OTHER_EPOCH
    assert desk.run("commit", "n2", 0, 0, 0)[0] == OTHER_EPOCH
    assert desk.run("ready", "n2")[0] == OTHER_EPOCH
    assert desk.run("ready", "n3")[0] == OTHER_EPOCH  # not committed
    assert desk.everything() == before


@pytest.mark.parametrize("lost", ["w", "a", "t"])
def test_a_rebuild_that_lost_a_piece_is_not_committed(make_desk: MakeDesk, lost: str) -> None:
    desk = make_desk(money(100))
    desk.epoch = 2
    desk.run("begin", 2, "n2")
    desk.run("write", "n2", "counters", "c:t:5:money:day:0", 60, 2**33)
    desk.run("write", "n2", "watermarks", "s1", 7)
    desk.run("write", "n2", "counted", "r7", "25 5")
    desk.raw("DEL", desk.key(lost))
    assert desk.run("commit", "n2", 1, 1, 1)[0] == OTHER_EPOCH


# --- a full store --------------------------------------------------------------------------------


def test_a_full_store_admits_nothing_and_settles_everything(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000))
    desk.admit("r1", 100)
    desk.admit("r2", 100)
    desk.raw("CONFIG", "SET", "maxmemory", "1")
    try:
        assert is_error(desk.admit("r3", 100))
        assert desk.extend("r2", Amounts(100, 10), Amounts(20, 0))[0] == DONE
        assert desk.settle(1, "r1", 50)[0] == DONE
        assert desk.sweep("r2", 100)[0] == DONE
        assert desk.declare("r4", 100)[0] == DONE
        for reads, *asked in (
            ("status", "s1"),
            ("holds",),
            ("counters",),
        ):  # renewal, janitor and verification go on
            assert not is_error(desk.run(reads, *asked)), reads
        (living,) = desk.link.exchange([desk.commands.living(0)])
        assert not is_error(living)
    finally:
        desk.raw("CONFIG", "SET", "maxmemory", "0")
    assert desk.counter() == (0, 150, 100)


# --- end users of one key ------------------------------------------------------------------------


def as_user(desk: Desk, user: str, *, is_other: bool = False) -> Desk:
    desk.call = msgspec.structs.replace(desk.call, end_user=user, is_other_user=is_other)
    return desk


def for_each_user(amount: int = 100) -> Budget:
    return replace(money(amount), end_user="*")


def test_so_many_end_users_of_a_key_have_counters_of_their_own_and_the_others_one(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk(for_each_user(), now_ms=NOON_MS, most_users=2)
    for number, user in enumerate(("ann", "bob", "ann")):
        assert as_user(desk, user).admit(f"r{number}")[0] == DONE
    for user in ("cid", "dan"):
        assert as_user(desk, user).admit(user)[0] == OTHER_USER
        assert as_user(desk, user, is_other=True).admit(user, money=40)[0] == DONE
    # They have one budget together.
    assert as_user(desk, "eve", is_other=True).admit("e", money=40)[0] == HELD
    assert as_user(desk, "bob").admit("b2", money=40)[0] == DONE
    assert len(desk.keys("c:*")) == 3


def test_the_count_of_end_users_is_of_one_key_and_one_day(make_desk: MakeDesk) -> None:
    desk = make_desk(for_each_user(), now_ms=NOON_MS, most_users=1)
    assert as_user(desk, "ann").admit("a")[0] == DONE
    assert as_user(desk, "bob").admit("b")[0] == OTHER_USER
    desk.call = msgspec.structs.replace(desk.call, api_key_id=9)
    assert desk.admit("b")[0] == DONE
    desk.call = msgspec.structs.replace(desk.call, api_key_id=2)
    desk.set_clock(NOON_MS + 12 * HOUR_MS)
    assert desk.admit("b2")[0] == DONE


def test_a_refused_newcomer_takes_no_place(make_desk: MakeDesk) -> None:
    desk = make_desk(for_each_user(), now_ms=NOON_MS, most_users=1)
    assert as_user(desk, "ann").admit("a", money=101)[0] == HARD
    assert as_user(desk, "bob").admit("b")[0] == DONE


def test_end_users_are_not_counted_where_no_rule_is_for_each_of_them(make_desk: MakeDesk) -> None:
    desk = make_desk(money(1000), replace(money(100), end_user="ann"), now_ms=NOON_MS, most_users=1)
    for user in ("ann", "bob", "cid"):
        assert as_user(desk, user).admit(user)[0] == DONE
    assert desk.keys("u:*") == []


def test_without_the_rule_any_number_of_end_users_has_counters(make_desk: MakeDesk) -> None:
    sources = without_rule(read_sources(), "most-users")
    desk = make_desk(for_each_user(), now_ms=NOON_MS, most_users=1, sources=sources)
    for user in ("ann", "bob", "cid"):
        assert as_user(desk, user).admit(user)[0] == DONE
