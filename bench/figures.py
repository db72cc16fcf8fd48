"""The figures: pure functions from what was counted to what is reported."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The smallest value with at least `percent` of all at or below it; 0 of nothing."""
    if not ascending:
        return 0.0
    return ascending[max(0, math.ceil(len(ascending) * percent / 100) - 1)]


def ledger_errors(*, rows: int, answered: int, backend_calls: int, in_flight: int) -> int:
    """How many ledger rows too few or too many a load left.

    Every call the backend received and every answer a caller got needs a row. More rows than answers are
    right only for the requests in flight when the load was stopped.
    """
    too_few = max(0, max(answered, backend_calls) - rows)
    return too_few + max(0, rows - answered - in_flight)


@dataclass(frozen=True, slots=True)
class Sample:
    """One load on one target in one round. `cpu_us` is the proxy's CPU time per request."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    cpu_share: float
    errors: int


@dataclass(frozen=True, slots=True)
class Measure:
    """One key of the result: which load gives the throughput and which one the latency."""

    key: str
    title: str
    throughput: str
    latency: str


def summarise(measure: Measure, samples: Mapping[tuple[str, str], Sequence[Sample]]) -> dict[str, Any]:
    """The medians of one measure. `samples` are the rounds by load name and target name."""

    def middle(load: str, target: str, field: str) -> float:
        return float(median(getattr(sample, field) for sample in samples[load, target]))

    def added(target: str, field: str) -> float:
        return round(middle(measure.latency, target, field) - middle(measure.latency, "direct", field), 3)

    yardstick_rps = middle(measure.throughput, "yardstick", "rps")
    governed_rps = middle(measure.throughput, "gateway", "rps")
    ours = {
        (load, target): rounds
        for (load, target), rounds in samples.items()
        if load in (measure.throughput, measure.latency)
    }
    ruled = {}
    if (measure.throughput, "gateway, ruled") in samples:
        ruled_rps = middle(measure.throughput, "gateway, ruled", "rps")
        ruled = {
            "ruled_rps": round(ruled_rps, 1),
            "ruled_ratio": ratio(ruled_rps, yardstick_rps),
            "ruled_cpu_us": round(middle(measure.throughput, "gateway, ruled", "cpu_us"), 1),
        }
    return {
        **ruled,
        "yardstick_rps": round(yardstick_rps, 1),
        "governed_rps": round(governed_rps, 1),
        "ratio": ratio(governed_rps, yardstick_rps),
        "added_p50_ms": added("gateway", "p50_ms"),
        "added_p99_ms": added("gateway", "p99_ms"),
        "yardstick_added_p50_ms": added("yardstick", "p50_ms"),
        "yardstick_added_p99_ms": added("yardstick", "p99_ms"),
        "yardstick_cpu_us": round(middle(measure.throughput, "yardstick", "cpu_us"), 1),
        "governed_cpu_us": round(middle(measure.throughput, "gateway", "cpu_us"), 1),
        "errors": sum(sample.errors for rounds in ours.values() for sample in rounds),
    }


def ratio(governed: float, yardstick: float) -> float:
    """`governed` as a share of `yardstick`, to three places; 0 when there is nothing to compare with."""
    return round(governed / yardstick, 3) if yardstick else 0.0


def table(measures: Sequence[Measure], result: Mapping[str, Any]) -> str:
    """The result for people."""
    lines = [
        f"{'':<31}{'yardstick':>11}{'gateway':>11}{'ratio':>8}{'added p50':>12}{'added p99':>12}{'errors':>8}"
    ]
    for measure in (measure for measure in measures if measure.key in result):
        row = result[measure.key]
        lines.append(
            f"{measure.title:<31}{row['yardstick_rps']:>9,.0f}/s{row['governed_rps']:>9,.0f}/s"
            f"{row['ratio']:>8.2f}{row['added_p50_ms']:>9.2f} ms{row['added_p99_ms']:>9.2f} ms{row['errors']:>8}"
        )
    for measure in (measure for measure in measures if "ruled_rps" in result.get(measure.key, {})):
        row = result[measure.key]
        lines.append(
            f"{f'{measure.key}, rules on four levels':<42}{row['ruled_rps']:>9,.0f}/s{row['ruled_ratio']:>8.2f}"
            f"{row['ruled_cpu_us'] - row['governed_cpu_us']:>9.0f} us CPU a request beside no rules"
        )
    if (memory := result.get("memory")) is not None:
        for key, title in (("gateway", "memory of the gateway"), ("store", "memory of the store")):
            lines.append(
                f"{title:<31}{memory[f'{key}_warm_mb']:>8.1f} MB{memory[f'{key}_mb']:>8.1f} MB"
                f"{memory[f'{key}_bytes_per_request']:>11.1f} bytes a request, over {memory['requests']:,}"
            )
    if (shipper := result.get("shipper")) is not None:
        lines.append(
            f"{'shipper, records':<31}{'':>11}{shipper['records_per_s']:>9,.0f}/s{'':>32}{shipper['errors']:>8}"
        )
    return "\n".join(lines)
