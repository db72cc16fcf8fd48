"""See the package."""

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.chaos.stage import Stage, built_stage

_WARM_S = 2.0
_PATIENCE_S = 30.0
_AFTER_S = 3.0


@dataclass(frozen=True)
class Line:
    """What a scene showed."""

    scene: str
    requests: int
    recovery_s: float
    text: str


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def main() -> int:
    """Play the scenes; status 1 when the books of one were wrong."""
    parser = argparse.ArgumentParser(
        prog="chaos", description="Breaks a running product and checks its books."
    )
    parser.add_argument("--per-second", type=float, default=200.0, help="requests, over two gateways")
    parser.add_argument("--scene", action="append", help="only scenes whose name contains this")
    parser.add_argument("--slack", type=float, default=1.0, help="times the time in which it must recover")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    say(f"Seed {options.seed}, {options.per_second:.0f} requests per second.")
    with built_stage(say) as stage:
        from tests.chaos.scenes import SCENES

        wanted = [scene for scene in SCENES if is_wanted(scene.name, options.scene)]
        wrong = [scene.name for scene in wanted if not shows(stage, scene, options)]
        for log in sorted(stage.folder.glob("*.log")) if wrong else ():
            say(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
    say(f"{len(wanted) - len(wrong)} of {len(wanted)} scenes ended with right books.")
    return 1 if wrong else 0


def is_wanted(name: str, parts: list[str] | None) -> bool:
    """Whether the scene was asked for."""
    return not parts or any(part in name for part in parts)


def shows(stage: Stage, scene: Any, options: argparse.Namespace) -> bool:
    """Play a scene and say what it showed; whether its books were right."""
    try:
        line = play(stage, scene, options)
    except AssertionError as error:
        say(f"WRONG  {scene.name}: {error}")
        return False
    say(f"right  {scene.name}: {line.requests} requests, recovered in {line.recovery_s:.1f} s; {line.text}")
    return True


def play(stage: Stage, scene: Any, options: argparse.Namespace) -> Line:
    """One scene under load, and its books. Raises AssertionError."""
    from django.db import connection

    from tests.chaos.callers import make_callers
    from tests.chaos.checks import check_budgets, check_counters, last_served_id, read_books
    from tests.chaos.crowd import Crowd
    from tests.chaos.scenes import ALWAYS, HEALTHY

    callers = make_callers(stage)
    since_id = last_served_id(stage)
    with Crowd(stage.urls, [caller.spender for caller in callers], options.per_second, options.seed) as crowd:
        time.sleep(_WARM_S)
        scene.play(stage)
        ended = time.monotonic()
        while (recovery_s := crowd.recovery_s(ended, HEALTHY)) is None:
            assert time.monotonic() - ended < _PATIENCE_S, f"no recovery: {dict(crowd.outcomes())}"
            time.sleep(0.05)
        time.sleep(_AFTER_S)
    connection.close()  # the scene may have ended it
    told = dict(crowd.outcomes())
    strange = told.keys() - ALWAYS - scene.allowed
    assert not strange, f"callers were told {strange}: {told}"
    assert recovery_s <= scene.recovery_s * options.slack, f"recovered only after {recovery_s:.1f} s: {told}"
    teams = [caller.team_id for caller in callers]
    books = read_books(stage, since_id, teams)
    check_counters(stage)
    check_budgets(teams)
    return Line(scene.name, crowd.begun, recovery_s, _describe(told, books))


def _describe(told: dict[str, int], books: Any) -> str:
    outcomes = ", ".join(f"{count} {how}" for how, count in sorted(told.items()))
    rows = ", ".join(f"{count} {status}" for status, count in sorted(books.rows.items()))
    return (
        f"callers: {outcomes}; ledger: {rows}; {books.served} served for {books.served_nanousd} nano-dollars, "
        f"{books.ledger_nanousd} in the ledger, of it {books.abandoned_nanousd} too much for abandoned calls and "
        f"{books.estimated_off} for those that were cut off"
    )


if __name__ == "__main__":
    sys.exit(main())
