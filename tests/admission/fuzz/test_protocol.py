"""The protocol under random faults: whatever happens, counters and ledger agree with what was truly served.

A failure prints its seed; FUZZ_SEEDS=17 runs that one alone, and FUZZ_SEEDS=2000:9000 as many as one likes:

    FUZZ_SEEDS=2000:9000 make test-slow ARGS="tests/admission/fuzz -k chosen"
"""

import os
from collections.abc import Iterator

import pytest

from tests.admission.fuzz.bench import Bench, open_bench


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with open_bench() as made:
        yield made


@pytest.mark.parametrize("seed", range(24))
def test_a_run_ends_with_counters_and_ledger_in_agreement(bench: Bench, seed: int) -> None:
    bench.run(seed)


def test_a_seed_makes_the_same_run_again(bench: Bench) -> None:
    assert bench.run(20) == bench.run(20)
    assert bench.run(3) != bench.run(4)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("hundreds", range(1, 11))
def test_a_thousand_runs(bench: Bench, hundreds: int) -> None:
    for seed in range(hundreds * 100, hundreds * 100 + 100):
        bench.run(seed)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.skipif("FUZZ_SEEDS" not in os.environ, reason="FUZZ_SEEDS chooses them")
def test_chosen_seeds(bench: Bench) -> None:
    first, _, last = os.environ["FUZZ_SEEDS"].partition(":")
    for seed in range(int(first), int(last or int(first) + 1)):
        bench.run(seed)
