"""The circuit breaker's decisions, moment by moment."""

import pytest

from outbound.breaker import RETURN_S, Breaker, Outcome, Rule, State

GOOD, BAD = Outcome(200), Outcome(500)
RULE = Rule(failures=3, percent=50, interval_s=10, trip_s=10)


def tripped(now: float = 0.0, rule: Rule = RULE) -> Breaker:
    breaker = Breaker((rule,), longest_trip_s=60)
    assert [breaker.record(BAD, now) for _ in range(rule.failures)] == [False] * (rule.failures - 1) + [True]
    return breaker


def test_it_trips_at_the_count_and_the_share() -> None:
    breaker = Breaker((RULE,))
    for _ in range(4):
        breaker.record(GOOD, 1)
    assert [breaker.record(BAD, 2) for _ in range(4)] == [
        False,
        False,
        False,
        True,
    ]  # 3 of 7 are under a half
    assert (breaker.state, breaker.until, breaker.share(2)) == (State.OPEN, 12, 0)


def test_old_failures_do_not_count() -> None:
    breaker = Breaker((RULE,))
    assert not any(breaker.record(BAD, at) for at in (0, 1, 11, 12, 22))
    assert [breaker.record(BAD, at) for at in (23, 24)] == [False, True]


@pytest.mark.parametrize("status", [400, 413, 422, 200, 302])
def test_what_the_caller_did_wrong_is_no_failure(status: int) -> None:
    breaker = Breaker((RULE,))
    assert not any(breaker.record(Outcome(status), 0) for _ in range(100))


def test_several_rules_each_trip_for_their_own_time() -> None:
    strict = Rule(failures=1, percent=0, interval_s=60, trip_s=40, statuses=((401, 401),))
    breaker = Breaker(
        (
            RULE,
            strict,
        )
    )
    assert breaker.record(Outcome(401), 0)
    assert breaker.until == 40


@pytest.mark.parametrize(("told_s", "left_alone_s"), [(7, 7), (0, 1), (86_400, 60)])
def test_a_backend_that_says_when_it_is_back_is_left_alone_till_then(
    told_s: float, left_alone_s: float
) -> None:
    breaker = Breaker((RULE,), longest_trip_s=60)
    assert breaker.record(Outcome(429, told_s), 100)
    assert breaker.until == 100 + left_alone_s
    assert not breaker.is_probe_due(100 + left_alone_s - 0.01)
    assert breaker.is_probe_due(100 + left_alone_s)


def test_one_probe_and_then_a_gradual_return() -> None:
    breaker = tripped()
    assert breaker.is_probe_due(10)
    breaker.begin_probe(10, within_s=5)
    assert not breaker.is_probe_due(14.9)
    assert not breaker.record(GOOD, 11, is_probe=True)
    shares = [breaker.share(11 + RETURN_S * part) for part in (0, 0.2, 0.5, 0.99, 1)]
    assert shares == pytest.approx([0.1, 0.2, 0.5, 0.99, 1])
    assert (breaker.state, breaker.trips) == (State.CLOSED, 0)


def test_a_probe_that_fails_trips_for_longer() -> None:
    breaker, now, waits = tripped(), 0.0, []
    for _ in range(5):
        waits.append(breaker.until - now)
        now = breaker.until
        breaker.begin_probe(now, within_s=5)
        assert breaker.record(BAD, now, is_probe=True)
    assert waits == [10, 20, 40, 60, 60]


def test_a_probe_that_is_lost_is_followed_by_another() -> None:
    breaker = tripped()
    breaker.begin_probe(10, within_s=5)
    assert breaker.is_probe_due(15)
    breaker.drop_probe(11)
    assert breaker.is_probe_due(11)


def test_a_failure_while_it_returns_trips_at_once() -> None:
    breaker = tripped()
    breaker.begin_probe(10, within_s=5)
    breaker.record(GOOD, 10, is_probe=True)
    assert breaker.record(BAD, 11)
    assert breaker.until == 11 + 20


def test_what_ends_after_the_trip_changes_nothing() -> None:
    breaker = tripped()
    assert not breaker.record(BAD, 1)
    assert not breaker.record(GOOD, 2)
    assert (breaker.state, breaker.until) == (State.OPEN, 10)


def test_news_of_another_worker() -> None:
    breaker = Breaker((RULE,))
    breaker.hear_open(30, 2, 10)
    assert (breaker.state, breaker.until, breaker.trips) == (State.OPEN, 30, 2)
    breaker.hear_open(20, 1, 11)  # older news
    assert breaker.until == 30
    breaker.hear_return(9)  # from before
    assert breaker.state is State.OPEN
    breaker.hear_return(31)
    assert (breaker.state, breaker.share(31 + RETURN_S / 2)) == (State.RETURNING, 0.5)
    breaker.hear_return(40)  # heard again: it is returning already
    assert breaker.share(31 + RETURN_S) == 1


def test_calls_from_before_a_trip_say_nothing_of_a_backend_that_is_back() -> None:
    breaker = tripped(100)
    breaker.begin_probe(110, within_s=5)
    breaker.record(GOOD, 111, is_probe=True, began=110)
    for late in range(20):
        assert not breaker.record(BAD, 111 + late / 10, began=99)
    assert breaker.state is State.RETURNING
    assert breaker.record(BAD, 113, began=112)


def test_late_failures_do_not_count_for_the_next_trip() -> None:
    breaker = tripped(100)
    for _ in range(50):
        breaker.record(BAD, 101, began=99)
    breaker.begin_probe(110, within_s=5)
    breaker.record(GOOD, 110, is_probe=True, began=110)
    breaker.share(200)
    assert breaker.state is State.CLOSED
    assert not breaker.record(BAD, 201, began=200)


@pytest.mark.parametrize("status", [402, 529])
def test_who_has_no_credit_or_is_overloaded_is_left_alone(status: int) -> None:
    breaker = Breaker()
    for _ in range(5):
        breaker.record(Outcome(status), 1)
    assert breaker.state is State.OPEN


def test_an_overloaded_backend_is_left_alone_as_long_as_it_says() -> None:
    breaker = Breaker()
    assert breaker.record(Outcome(529, 7.0), 1)
    assert breaker.until == 8
