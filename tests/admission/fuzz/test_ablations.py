"""Every rule of the protocol is needed: without it, the same runs fail.

Each rule is tried under the faults that it is there for. The same seeds pass with the rule in force.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from billing.admission.scripts import read_sources
from tests.admission.desk import scripts_on_a_clock, without_rule
from tests.admission.fuzz.bench import SCRIPTS, Bench, open_bench

SEEDS = range(5_000, 5_150)


@dataclass(frozen=True, slots=True)
class Rule:
    """`in_script`: its lines in the scripts are marked with its name; else the processes keep it."""

    name: str
    faults: tuple[str, ...]
    in_script: bool = False

    def __str__(self) -> str:
        return self.name


RULES = [
    Rule("late", ("overtake", "pause_store"), in_script=True),
    Rule("not-before", ("overtake",), in_script=True),
    Rule("watermark", ("edit",), in_script=True),
    Rule("counted", ("sleep",), in_script=True),
    Rule("run", ("set_back",), in_script=True),
    Rule("lost-counter", ("delete",), in_script=True),
    Rule("window", ("skew",), in_script=True),
    Rule("declare-skips-counted", ("sleep",), in_script=True),
    Rule("nonce", ("zombie",), in_script=True),
    Rule("minus-zero", ("edit",), in_script=True),
    Rule("declare", ("flush", "edit")),
    Rule("resend", ("flush",)),
    Rule("ready-after-resend", ("flush", "edit")),
    Rule("restore-counted", ("sleep",)),
    Rule("second-statement", ("sleep",)),
    Rule("watermark-with-rows", ("half_shipped",)),
    Rule("record-before-sweep", ("sleep", "lose_disk")),
    Rule("adopter-waits", ("overtake_dead",)),
    Rule("cancel", ("overtake",)),
]
# A living worker has beaten long before its hold may be swept, because the list of workers must be complete:
# the age that SWEEP asks of an epoch is a second lock on the same door, as the janitor looks at it, too.
SECOND_LOCKS = {"sweep-grace"}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with open_bench() as made:
        yield made


# The simulation neither waits in queues nor extends: test_queue_scripts.py switches those of queues off, and
# test_extend.py has the case of a counter that is gone. How many end users have counters is no matter of money.
TRIED_ALONE = {
    *(
        "most-users",
        "lost-extend",
        "no-overtaking",
        "queue-bound",
        "stands-where-refused",
        "ticket-lease",
        "turn-given-up",
    ),
}


def test_every_rule_of_the_scripts_is_tried() -> None:
    marked = {
        line.rsplit("-- rule: ", 1)[1]
        for text in read_sources().values()
        for line in text.split("\n")
        if "-- rule: " in line
    }
    assert marked == {rule.name for rule in RULES if rule.in_script} | SECOND_LOCKS | TRIED_ALONE


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_rule_is_needed(bench: Bench, rule: Rule) -> None:
    scripts = scripts_on_a_clock(without_rule(read_sources(), rule.name)) if rule.in_script else SCRIPTS
    off = frozenset() if rule.in_script else frozenset({rule.name})
    for seed in SEEDS:
        try:
            bench.run(seed, scripts, off, rule.faults)
        except AssertionError:
            bench.run(seed, SCRIPTS, frozenset(), rule.faults)
            return
    pytest.fail(f"{len(SEEDS)} runs pass without the rule {rule}")
