"""The loads, and the rounds in which each target meets each of them in turn."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import linear_regression

from bench.figures import Measure, Sample, ledger_errors
from bench.generators import BenchError, Generator, Report, parse_report
from bench.services import Services, Target
from gateway_site.supervisor import Console

_SETTLE_S = 60.0  # for the shipper to bring the last rows of a load to the ledger
_READ_EVERY_S = 0.1
_PROMPT_BYTES = 700


@dataclass(frozen=True, slots=True)
class Load:
    """`connections` callers at once, each with one request in flight.

    Not measured for the first `ramp_s`, then for `--seconds` times `stretch`.
    """

    name: str
    connections: int
    streams: bool
    targets: tuple[str, ...]
    ramp_s: float
    stretch: float = 1.0


PROXIES = ("yardstick", "gateway")
EVERYONE = ("direct", "yardstick", "gateway")
BOTH_OF_OURS = (*PROXIES, "gateway, ruled")

LOADS = (
    Load("plain, 32 connections", 32, False, BOTH_OF_OURS, ramp_s=0.5),
    Load("plain, 1 connection", 1, False, (*EVERYONE, "gateway, ruled"), ramp_s=0.5),
    Load("plain, 128 connections", 128, False, EVERYONE, ramp_s=0.5),
    Load("streams, 1,024 connections", 1024, True, BOTH_OF_OURS, ramp_s=3.0, stretch=2.0),
    Load("streams, 64 connections", 64, True, EVERYONE, ramp_s=1.0),
)

MEASURES = (
    Measure("plain", LOADS[0].name, throughput=LOADS[0].name, latency=LOADS[1].name),
    Measure("plain_128", LOADS[2].name, throughput=LOADS[2].name, latency=LOADS[2].name),
    Measure("stream", LOADS[3].name, throughput=LOADS[3].name, latency=LOADS[4].name),
)


def quick_loads() -> list[Load]:
    """The same loads, too small and too short to say anything; for the test of the benchmark itself."""
    return [replace(load, connections=min(load.connections, 128), ramp_s=0.2, stretch=1.0) for load in LOADS]


@dataclass(frozen=True, slots=True)
class Reading:
    """The counters at one moment."""

    at_s: float
    backend_calls: int
    cpu_s: float


class Bench:
    """Runs loads and keeps the samples by load name and target name, in the order of the rounds."""

    def __init__(self, services: Services, generator: Generator, console: Console) -> None:
        self.samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        self._services = services
        self._generator = generator
        self._console = console

    def run_round(self, title: str, loads: "list[Load]", seconds: float, *, counted: bool = True) -> None:
        """Every load on each of its targets, one after another."""
        for load in loads:
            said = []
            for name in load.targets:
                sample = self._run_load(load, self._services.targets[name], seconds)
                if counted:
                    self.samples[load.name, name].append(sample)
                said.append(
                    f"{name} {sample.rps:,.0f}/s" + (f" ({sample.errors} ERRORS)" if sample.errors else "")
                )
            self._console.progress(f"{title}  {load.name:<28}{', '.join(said)}")

    def _run_load(self, load: Load, target: Target, seconds: float) -> Sample:
        services = self._services
        calls_before, rows_before = services.backend_calls(), services.ledger_rows()
        process = services.start_load(
            self._generator.command(target.url, load.connections),
            build_body(services.model, streams=load.streams),
            target.key,
        )
        time.sleep(load.ramp_s)
        readings = self._watch(target, seconds * load.stretch)
        report = parse_report(services.end_load(process))
        calls, rows = self._settle(target, calls_before, rows_before[0])
        services.check_alive()
        errors = report.socket_errors + report.bad_answers
        if target.is_ours:
            failed = services.ledger_rows()[1] - rows_before[1]
            errors += max(0, failed - report.bad_answers)  # failures that the callers did not see as such
            errors += ledger_errors(
                rows=rows,
                answered=report.answered,
                backend_calls=calls,
                in_flight=(load.connections if self._generator.cuts_off else 0) + report.socket_errors,
            )
        return make_sample(readings, report, errors)

    def _watch(self, target: Target, seconds: float) -> list[Reading]:
        """Readings from now on, for `seconds`."""
        readings, ends_s = list[Reading](), time.perf_counter() + seconds
        while True:
            calls = self._services.backend_calls()
            readings.append(Reading(time.perf_counter(), calls, target.cpu_s()))
            if (left_s := ends_s - time.perf_counter()) <= 0:
                return readings
            time.sleep(min(_READ_EVERY_S, left_s))

    def _settle(self, target: Target, calls_before: int, rows_before: int) -> tuple[int, int]:
        """Backend calls and ledger rows of a load, once neither grows any more and the gateway's calls all have
        rows; or after a minute. A proxy works on what a stopped generator abandoned."""
        services, deadline, previous = self._services, time.monotonic() + _SETTLE_S, (-1, -1)
        while True:
            time.sleep(0.25)
            now = services.backend_calls() - calls_before, services.ledger_rows()[0] - rows_before
            is_shipped = not target.is_ours or now[1] >= now[0]
            if (now == previous and is_shipped) or time.monotonic() > deadline:
                return now
            previous = now


def make_sample(readings: Sequence[Reading], report: Report, errors: int) -> Sample:
    """The rate is the slope of the line through all readings.

    1,024 streams begun at once go on beginning in waves, which a rate between two moments would see as noise.
    Raises BenchError when nothing was served.
    """
    first, last = readings[0], readings[-1]
    rps = linear_regression([r.at_s for r in readings], [r.backend_calls for r in readings]).slope
    if rps <= 0:
        raise BenchError(f"Nothing was served: {report}")
    cpu_share = (last.cpu_s - first.cpu_s) / (last.at_s - first.at_s)
    return Sample(
        rps=round(rps, 1),
        p50_ms=report.p50_ms,
        p99_ms=report.p99_ms,
        cpu_us=round(cpu_share / rps * 1e6, 1),
        cpu_share=round(cpu_share, 3),
        errors=errors,
    )


def build_body(model: str, *, streams: bool) -> str:
    """A chat request with one user message of 700 bytes."""
    prompt = ("How many bytes does this question have? " * 20)[:_PROMPT_BYTES]
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    return json.dumps({**body, "stream": True} if streams else body)
