"""See the package."""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.chaos.stage import Stage, built_stage

_WARM_S = 2.0
_AFTER_S = 3.0


@dataclass(frozen=True)
class Line:
    """What a scene showed."""

    scene: str
    requests: int
    recovery_s: float
    text: str


def main() -> int:
    """Play the scenes; status 1 when the books of one were wrong."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument(
        "--per-second", type=float, default=200.0, help="requests per second, over two gateways"
    )
    parser.add_argument("--scene", action="append", help="only scenes whose name contains this")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    say = lambda text: print(text, flush=True)  # noqa: E731
    say(f"Seed {options.seed}, {options.per_second:.0f} requests per second.")
    failures = 0
    with built_stage(say) as stage:
        from tests.chaos.checks import ChaosError
        from tests.chaos.scenes import SCENES

        for scene in SCENES:
            if options.scene and not any(part in scene.name for part in options.scene):
                continue
            try:
                line = play(stage, scene, options.per_second, options.seed)
            except ChaosError as error:
                failures += 1
                say(f"WRONG  {scene.name}: {error}")
            except AssertionError as error:
                failures += 1
                say(f"STUCK  {scene.name}: {error}")
            else:
                say(
                    f"right  {line.scene}: {line.requests} requests, serving again after {line.recovery_s:.1f} s; "
                    f"{line.text}"
                )
        if failures:
            for log in sorted(stage.folder.glob("*.log")):
                say(f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}")
    return 1 if failures else 0


def play(stage: Stage, scene: Any, per_second: float, seed: int) -> Line:
    """One scene under load, and its books."""
    from billing.rule_models import Budget, Limit
    from tests.chaos.checks import (
        ChaosError,
        check_budgets,
        check_counters,
        last_served_id,
        read_books,
    )
    from tests.chaos.crowd import Crowd, Spender
    from tests.chaos.scenes import ALWAYS
    from tests.factories import make_caller

    wide, tight, hostile = (make_caller(stage.simulator.base_url) for _ in range(3))
    for owner in (
        {"department": wide.team.department},
        {"team": wide.team},
        {"application": wide.application},
        {"api_key": wide.key},
    ):
        Budget.objects.create(unit="money", period="month", amount=10**15, **owner)
        Limit.objects.create(kind="rpm", amount=10**7, **owner)
    Budget.objects.create(team=wide.team, unit="tokens", period="day", amount=10**12, end_user="*")
    Budget.objects.create(team=tight.team, unit="money", period="month", amount=2 * 10**6)
    Limit.objects.create(team=hostile.team, kind="rpm", amount=60)
    stage.wait_for_configuration()
    since_id = last_served_id(stage)
    spenders = [
        Spender(wide.secret, wide.model, 0.7),
        Spender(tight.secret, tight.model, 0.2),
        Spender(hostile.secret, hostile.model, 0.1, {"user": "\x00\ud800 \u202e" + "x" * 300}),
    ]
    with Crowd(stage.urls, spenders, per_second, seed) as crowd:
        time.sleep(_WARM_S)
        scene.play(stage)
        ended = time.monotonic()
        recovery_s = _wait_for_recovery(lambda: crowd.served_since(ended), set(stage.urls), ended)
        time.sleep(_AFTER_S)
    strange = set(crowd.outcomes()) - ALWAYS - scene.allowed
    if strange:
        raise ChaosError(f"callers were told {strange}: {dict(crowd.outcomes())}")
    if recovery_s > scene.recovery_s:
        raise ChaosError(f"serving again only after {recovery_s:.1f} s: {dict(crowd.outcomes())}")
    teams = [caller.team.pk for caller in (wide, tight, hostile)]
    books = read_books(stage, since_id, teams)
    check_counters(stage)
    check_budgets(teams)
    told = ", ".join(f"{count} {how}" for how, count in sorted(crowd.outcomes().items()))
    rows = ", ".join(f"{count} {status}" for status, count in sorted(books.rows.items()))
    return Line(
        scene.name,
        crowd.begun,
        recovery_s,
        f"callers: {told}; ledger: {rows}, {books.served} served; served {books.served_nanousd}, "
        f"ledger {books.ledger_nanousd}, of it abandoned {books.abandoned_nanousd}, "
        f"cut off {books.estimated_off} nano-dollars",
    )


def _wait_for_recovery(serving: Callable[[], set[str]], gateways: set[str], ended: float) -> float:
    while serving() < gateways:
        if time.monotonic() - ended > 30:
            raise AssertionError(f"only {serving()} of {gateways} serve again")
        time.sleep(0.02)
    return time.monotonic() - ended


if __name__ == "__main__":
    sys.exit(main())
