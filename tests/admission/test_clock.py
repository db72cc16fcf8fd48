"""What a worker takes for the store's time."""

import pytest

from billing.admission.clock import Clock

STORE_MS = 1_800_000_000_000  # the store's time when ours is 0


class Watch:
    """Our own clock, by hand."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def watch() -> Watch:
    return Watch()


def test_a_reply_that_waited_does_not_put_the_clock_back(watch: Watch) -> None:
    clock = Clock(watch)
    clock.learn(STORE_MS)
    watch.s = 0.5
    clock.learn(STORE_MS + 300)  # read 200 ms late
    assert clock.now_ms() == pytest.approx(STORE_MS + 500, abs=6)
    watch.s = 0.6
    clock.learn(STORE_MS + 600)
    assert clock.now_ms() == STORE_MS + 600


def test_the_first_reply_is_better_than_this_machines_clock(watch: Watch) -> None:
    clock = Clock(watch)
    clock.learn(clock.now_ms() - 700)
    assert clock.now_ms() == pytest.approx(Clock(watch).now_ms() - 700, abs=50)


@pytest.mark.parametrize("step_ms", [-5_000, 5_000, 200])
def test_another_store_with_another_clock_is_followed(watch: Watch, step_ms: int) -> None:
    clock = Clock(watch)
    clock.learn(STORE_MS)
    clock.learn(STORE_MS + step_ms)
    assert clock.now_ms() == STORE_MS + step_ms


def test_a_small_step_back_is_followed_by_and_by(watch: Watch) -> None:
    clock = Clock(watch)
    clock.learn(STORE_MS)
    for second in range(1, 60):
        watch.s = second
        clock.learn(STORE_MS - 500 + second * 1000)
    assert clock.now_ms() == STORE_MS - 500 + 59_000


def test_a_time_that_is_trusted_is_taken(watch: Watch) -> None:
    clock = Clock(watch)
    clock.learn(STORE_MS)
    clock.learn(STORE_MS - 500, is_trusted=True)
    assert clock.now_ms() == STORE_MS - 500
