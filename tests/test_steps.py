"""A reserve that grows with its stream: in time, in whole steps, and never past what the stream can be."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.admission.holds import Amounts
from billing.estimate import Candidate, Estimate, Estimator, Extent
from billing.money import Price
from billing.steps import STEP_TOKENS, GrowingReserve, OutputGauge, first_step, tokens_of

PRICE = Price(1, datetime(2026, 1, 1, tzinfo=UTC), 150_500_001, 1, 1, 600_700_003)


def whole(output: int) -> Estimate:
    return Estimator().bound("model", Extent(tokens=100), output, [Candidate("upstream", PRICE)])


def growing(output: int, most: int | None) -> tuple[Estimate, GrowingReserve]:
    first = first_step(whole(output), STEP_TOKENS, 1)
    return first, GrowingReserve(first, first.output_tokens, most)


def test_a_short_answer_is_held_at_once_and_never_grows() -> None:
    first, reserve = growing(300, 300)
    assert first == whole(300)
    assert reserve.next_step(300) is None


@given(st.integers(1, 20_000), st.lists(st.integers(0, 700)))
def test_steps_come_in_time_and_add_up_to_the_whole(most: int, pieces: list[int]) -> None:
    first, reserve = growing(most, most)
    produced, held = 0, first.most
    for piece in pieces:
        produced = min(produced + piece, most)
        if more := reserve.next_step(produced):
            reserve.extended(more)
            held += more
            assert more.money > 0
        assert produced <= reserve.held_tokens <= most
        assert held == whole(reserve.held_tokens).most


def test_a_stream_without_a_bound_goes_on_past_its_first_estimate() -> None:
    _, reserve = growing(4_096, None)
    for produced in range(0, 10_000, 50):
        if more := reserve.next_step(produced):
            assert more.tokens == STEP_TOKENS
            reserve.extended(more)
        assert reserve.held_tokens > produced


def test_a_refused_step_is_asked_for_again() -> None:
    _, reserve = growing(9_000, 9_000)
    assert reserve.next_step(500) is None
    asked = reserve.next_step(800)
    assert asked == reserve.next_step(800) != Amounts()


def test_a_refused_stream_goes_on_until_it_has_used_what_it_holds() -> None:
    """It asks once more there, for by then others may have ended; what is granted then is a step like any other."""
    _, reserve = growing(9_000, 9_000)
    assert reserve.next_step(800)
    assert reserve.refused(800)
    assert reserve.next_step(999) is None
    more = reserve.next_step(1_010)
    assert more is not None
    assert more.tokens == 260  # up to where a quarter of a step is left
    assert not reserve.refused(1_010)
    reserve.extended(more)
    assert reserve.next_step(1_009) is None
    again = reserve.next_step(1_010)
    assert again is not None
    assert again.tokens == STEP_TOKENS


def test_what_is_typical_is_held_at_first() -> None:
    assert first_step(whole(9_000), 300, 1) == whole(300)
    assert first_step(whole(9_000), 300, 3) == whole(900)
    assert first_step(whole(200), 300, 1) == whole(200)
    assert first_step(whole(9_000), 0, 1).output_tokens == 64


def test_a_small_reserve_leaves_a_quarter_of_itself_when_it_asks() -> None:
    first = first_step(whole(9_000), 100, 1)
    reserve = GrowingReserve(first, first.output_tokens, 9_000)
    assert reserve.next_step(74) is None
    assert reserve.next_step(75) is not None


def frames(*texts: str) -> bytes:
    head = '{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":"'
    return b"".join(f'data: {head}{text}"}}}}]}}\n\n'.encode() for text in texts)


@pytest.mark.parametrize("per_frame", [1, 20])
def test_the_gauge_is_near_the_truth_for_english(per_frame: int) -> None:
    """A word here is a token of about five bytes."""
    gauge = OutputGauge()
    gauge.feed(frames(""))
    for _ in range(2_000 // per_frame):
        gauged = gauge.feed(frames(" word" * per_frame))
    assert 2_000 <= gauged <= 2_000 * 1.75


def test_comments_and_pieces_without_an_end_are_nothing() -> None:
    gauge = OutputGauge()
    assert gauge.feed(b"data: half a frame") == 0


def test_frames_that_are_all_long_are_not_taken_for_empty_ones() -> None:
    """A backend that sends a thousand tokens a frame, with no short frame before."""
    gauge = OutputGauge()
    for _ in range(4):
        gauged = gauge.feed(frames(" word" * 1_000))
    assert 4_000 <= gauged <= 4_000 * 1.75


def test_the_gauge_begins_again_with_what_it_knows_of_the_frames() -> None:
    gauge = OutputGauge()
    gauge.feed(frames("") + frames(" word" * 30))
    gauge.restart()
    assert gauge.feed(frames("")) == 1
    assert gauge.feed(frames(" word" * 30)) >= 30


def test_tokens_of_texts_are_one_each_and_one_for_three_bytes() -> None:
    assert tokens_of([]) == 0
    assert tokens_of(["", "a", " b"]) == 2
    assert tokens_of([" word" * 30, "\ud800"]) == 51
