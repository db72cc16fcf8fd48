"""What a backend may be given at once: calls and tokens, of all workers together, the last of it for those above."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from routing.health.quota import Load, Quota, Tide
from routing.models import Route
from tests.dialects.test_pairs import told
from tests.factories import Caller, make_backend, make_caller
from tests.processes import Processes, Product, Simulator
from tests.routes import CHAT

CALLS = Quota(most_calls=10)
TOKENS = Quota(tokens_per_minute=1000)


@pytest.mark.parametrize(("priority", "most"), [("high", 10), ("normal", 9), ("low", 7)])
def test_what_is_left_is_for_those_above(priority: str, most: int) -> None:
    load = Load()
    while load.has_room(CALLS, 0, 1, priority):
        load.under_way += 1
    assert load.under_way == most
    load = Load()
    while load.has_room(TOKENS, 0, 10, priority):
        load.add_tokens(0, 10)
    assert load.tokens(0) == most * 100


def test_calls_and_tokens_of_other_workers_count() -> None:
    load = Load(others_calls=9)
    assert load.has_room(CALLS, 0, 1, "high")
    assert not load.has_room(CALLS, 0, 1, "normal")
    load = Load(others_tokens=995)
    assert load.has_room(TOKENS, 0, 5, "high")
    assert not load.has_room(TOKENS, 0, 6, "high")


def test_a_minute_later_tokens_are_forgotten_and_a_true_figure_replaces_the_estimate() -> None:
    load = Load()
    load.add_tokens(100.5, 900)
    assert not load.has_room(TOKENS, 159, 200, "high")
    load.correct_tokens(100.5, -600)
    assert load.has_room(TOKENS, 159, 200, "high")
    assert load.tokens(161) == 0
    load.add_tokens(161, 500)
    load.correct_tokens(100.5, -600)
    assert load.tokens(162) == 500


def test_what_a_worker_learned_is_how_many_of_its_own_calls_fit() -> None:
    load = Load(others_calls=30)
    load.tide.throttled(0, 10)
    assert load.has_room(Quota(adapts=True), 1, 1, "normal")
    load.under_way = 9
    assert not load.has_room(Quota(adapts=True), 1, 1, "normal")


def test_a_call_that_is_larger_than_the_quota_is_let_through_alone() -> None:
    load = Load()
    assert load.has_room(TOKENS, 0, 5000, "low")
    load.add_tokens(0, 5000)
    assert not load.has_room(TOKENS, 0, 1, "high")
    assert Load().has_room(Quota(most_calls=1), 0, 1, "low")


def test_the_tide_falls_with_throttling_once_a_second_and_rises_with_answers() -> None:
    tide = Tide()
    tide.answered(0, 50, None)
    assert tide.most == math.inf
    tide.throttled(1, 100)
    tide.throttled(1.5, 100)
    assert tide.most == 70
    tide.throttled(2.1, 60)
    assert tide.most == 42
    for _ in range(42 * 5):
        tide.answered(3, 42, None)
    assert 46 < tide.most < 47.5
    for second in range(100):
        tide.throttled(10 + 2 * second, 1)
    assert tide.most == 1


def test_the_tide_falls_when_first_bytes_come_much_later_than_usual() -> None:
    tide = Tide()
    for _ in range(100):
        tide.answered(0, 20, 0.1)
    assert tide.most == math.inf
    for moment in range(10):
        tide.answered(100 + 2 * moment, 20, 1.0)
    assert tide.most < 20


def make_pool(first: str, second: str, *products: Product, **fields: Any) -> Caller:
    caller = make_caller(first, longest_trip_s=0, **fields)
    model = caller.backend.catalogue_models.get()
    Route.objects.create(model=model, backend=make_backend(second, longest_trip_s=0), priority=2)
    for product in products:
        product.wait_for_configuration()
    return caller


def served_by(product: Product, caller: Caller, calls: int) -> list[str]:
    """Which backends serve so many calls at once."""
    with ThreadPoolExecutor(calls) as pool:
        answers = list(pool.map(lambda _: CHAT.ask(product, caller), range(calls)))
    assert all(answer.status_code == 200 for answer in answers)
    return [answer.headers["x-gateway-backend"] for answer in answers]


def test_what_is_beyond_the_quota_overflows_to_the_next_group(product: Product, simulator: Simulator) -> None:
    slow = told(simulator, first_byte_s=1)
    caller = make_pool(slow, simulator.base_url, product, most_calls=10)
    assert served_by(product, caller, 20).count(caller.backend.name) == 9
    caller.team.priority = "high"
    caller.team.save()
    time.sleep(0.3)
    assert served_by(product, caller, 20).count(caller.backend.name) == 10


def test_without_another_group_it_says_busy(product: Product, simulator: Simulator) -> None:
    caller = make_caller(told(simulator, first_byte_s=1), product, most_calls=2)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: CHAT.ask(product, caller), range(4)))
    refused = [answer for answer in answers if answer.status_code == 503]
    assert len(refused) == 3
    assert {answer.headers["x-gateway-reason"] for answer in refused} == {"backends_busy"}
    assert refused[0].headers["retry-after"] == "1"
    assert CHAT.ask(product, caller).status_code == 200


def test_tokens_of_a_minute_are_counted_as_they_were_used(product: Product, simulator: Simulator) -> None:
    usage = {"prompt_tokens": 300, "completion_tokens": 200}
    answers = told(simulator, usage=usage)
    caller = make_pool(answers, simulator.base_url, product, tokens_per_minute=2000)
    names = [served_by(product, caller, 1)[0] for _ in range(6)]
    assert names.count(caller.backend.name) == 3  # a fourth would come to more than nine tenths
    assert names[3:] == [names[3]] * 3


@pytest.mark.slow  # a second worker
def test_workers_share_a_quota(processes: Processes, product: Product, simulator: Simulator) -> None:
    other = processes.start_product(with_shipper=False)
    slow = told(simulator, first_byte_s=3)
    caller = make_pool(slow, simulator.base_url, product, other, most_calls=10)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served_by, product, caller, 9)
        time.sleep(1.2)  # by then the other has heard
        assert served_by(other, caller, 5).count(caller.backend.name) == 0
        assert first.result().count(caller.backend.name) == 9


def test_a_backend_that_throttles_gets_fewer_at_once(product: Product, simulator: Simulator) -> None:
    throttling = told(simulator, status=429, share=0.5, first_byte_s=0.3)
    caller = make_pool(throttling, simulator.base_url, product, adapts=True)
    served_by(product, caller, 30)
    time.sleep(0.4)
    names = served_by(product, caller, 30)
    tried = names.count(caller.backend.name)
    assert tried < 15  # of 30, half of which it would refuse
