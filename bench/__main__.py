"""`python -m bench`: measure, print the table, write bench.json. Exit codes: 0, 1 on failure, 130 on Ctrl-C."""

import argparse
import json
import os
import platform
import resource
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.cores import Cores
from bench.figures import summarise, table
from bench.generators import BenchError, Generator, choose_generator
from bench.measure import LOADS, MEASURES, Bench, quick_loads
from bench.memory import measure_memory
from bench.services import running_services
from gateway_site.embedded import EmbeddedError
from gateway_site.home import Home
from gateway_site.supervisor import Console

_STREAM_S = 0.42
_QUICK_STREAM_S = 0.1
_RECORDS = 200_000  # that the shipper is measured with
_QUICK_RECORDS = 1_000
_REQUESTS = 200_000  # that memory is watched over
_QUICK_REQUESTS = 500
_FILES = 16_384  # two per open stream in the proxy, one in the generator and the simulator each


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="bench", description="Measures the gateway against a bare pass-through proxy."
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each load is measured; medians are reported"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="measured per load, target and round")
    parser.add_argument("--load", choices=("auto", "wrk", "builtin"), default="auto", help="load generator")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds in all, to test the benchmark itself"
    )
    parser.add_argument("--only", choices=("shipper", "memory"), help="measure nothing else")
    parser.add_argument("--output", type=Path, help="instead of bench.json in .gateway/")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds and --seconds must be positive")
    return options


def run(options: argparse.Namespace, generator: Generator, cores: Cores, console: Console) -> dict[str, Any]:
    """All rounds; returns what bench.json holds."""
    loads = quick_loads() if options.quick else list(LOADS)
    shipped = _QUICK_RECORDS if options.quick else _RECORDS
    requests = _QUICK_REQUESTS if options.quick else _REQUESTS
    extras: dict[str, dict[str, float]] = {}
    rounds, seconds = (1, 0.3) if options.quick else (options.rounds, options.seconds)
    stream_s = _QUICK_STREAM_S if options.quick else _STREAM_S
    with running_services(cores, console, stream_s) as services:
        bench = Bench(services, generator, console)
        if options.only is None:
            if not options.quick:
                bench.run_round("warm-up  ", loads, min(1.0, seconds), counted=False)
            for number in range(1, rounds + 1):
                bench.run_round(f"round {number}/{rounds}", loads, seconds)
        if options.quick or options.only == "memory":  # it takes minutes
            extras["memory"] = measure_memory(services, generator, console, requests)
        if options.only in (None, "shipper"):
            console.progress("Shipping ...")
            extras["shipper"] = services.measure_shipper(shipped)
    raw = [
        {"load": load, "target": target, "rounds": [asdict(sample) for sample in samples]}
        for (load, target), samples in bench.samples.items()
    ]
    return {
        **{measure.key: summarise(measure, bench.samples) for measure in MEASURES if bench.samples},
        **extras,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "cores": cores.describe(),
        "load": generator.name,
        "seconds": seconds,
        "quick": options.quick,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rounds": raw,
    }


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Replace `path` at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(json.dumps(result, indent=2) + "\n")
    fresh.replace(path)


def main(arguments: list[str]) -> int:
    """Run the benchmark; returns the exit code."""
    options, console = parse_options(arguments), Console()
    output = options.output or Home.locate().root / "bench.json"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _allow_many_files()
    try:
        generator, cores = choose_generator(options.load), Cores.choose()
        console.say(
            f"Python {platform.python_version()}, {os.cpu_count()} CPUs, {cores.describe()}; load by {generator.name}"
        )
        if options.quick:
            console.say("Quick: at most 128 connections, and too short for the figures to mean anything.")
        result = run(options, generator, cores, console)
    except KeyboardInterrupt:
        console.progress("Stopped; nothing was written.")
        return 130
    except (BenchError, EmbeddedError) as error:
        console.shout(str(error))
        return 1
    write_result(output, result)
    console.say(f"\n{table(MEASURES, result)}\n\nWritten to {output}")
    return 0


def _allow_many_files() -> None:
    """Raise the limit of open files for us and our children, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
