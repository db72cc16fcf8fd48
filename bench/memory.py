"""Memory of a gateway under rules, and of its store, while it serves many requests: it must not grow."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.generators import BenchError, Generator, parse_report
from bench.measure import build_body
from bench.services import Services
from gateway_site.supervisor import Console

TARGET = "gateway, ruled"
_CONNECTIONS = 32
_READINGS = 10
_WARM = 2  # readings after which everything has its size: pools, caches, the loop's own
_PATIENCE_S = 60.0  # for a tenth of the requests
_MB = 1e6


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes in use after so many requests."""

    requests: int
    gateway: int
    store: int


def measure_memory(
    services: Services, generator: Generator, console: Console, requests: int
) -> dict[str, float]:
    """Serve `requests` to one caller under rules; returns the figures in MB. Raises BenchError."""
    target, before = services.targets[TARGET], services.backend_calls()
    process = services.start_load(
        generator.command(target.url, _CONNECTIONS), build_body(services.model, streams=False), target.key
    )
    readings = []
    for number in range(1, _READINGS + 1):
        _wait_for(services, before + number * requests // _READINGS)
        served = services.backend_calls() - before
        reading = Reading(served, target.memory_bytes(), services.store_bytes())
        readings.append(reading)
        console.progress(
            f"{served:>9,} requests  gateway {reading.gateway / _MB:.1f} MB, store {reading.store / _MB:.1f} MB"
        )
    report = parse_report(services.end_load(process))
    return summarise_memory(readings) | {"errors": report.bad_answers + report.socket_errors}


def summarise_memory(readings: Sequence[Reading]) -> dict[str, float]:
    """What there was when all had its size, what there is at the end, and how much a request added between."""
    warm, last = readings[_WARM - 1], readings[-1]
    between = max(1, last.requests - warm.requests)
    return {
        "requests": last.requests,
        "gateway_warm_mb": round(warm.gateway / _MB, 1),
        "gateway_mb": round(last.gateway / _MB, 1),
        "gateway_bytes_per_request": round((last.gateway - warm.gateway) / between, 1),
        "store_warm_mb": round(warm.store / _MB, 1),
        "store_mb": round(last.store / _MB, 1),
        "store_bytes_per_request": round((last.store - warm.store) / between, 1),
    }


def _wait_for(services: Services, calls: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while services.backend_calls() < calls:
        services.check_alive()
        if time.monotonic() > deadline:
            raise BenchError(f"The gateway is too slow: {calls:,} calls were not served in time.")
        time.sleep(0.05)
