"""The two load generators behind one face: a command that runs until SIGINT and then prints its report."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

WRK_TIMEOUT_S = 10  # wrk counts an answer that takes longer as an error; its tables grow with it


class BenchError(Exception):
    """The benchmark cannot go on; the message is for people."""


class Report(msgspec.Struct, frozen=True):
    """What a generator counted from its start to its end.

    `answered` are whole answers of any status. `bad_answers` of them were not 2xx, or, seen by the built-in
    generator only, streams without their closing frame. Latencies are from the request's first byte to the
    answer's last, in milliseconds, over the whole load.
    """

    answered: int
    bad_answers: int
    socket_errors: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Generator:
    """One way to make load. `cuts_off`: whether stopping it abandons the requests in flight."""

    name: str
    cuts_off: bool

    def command(self, url: str, connections: int) -> list[str]:
        """The command line; body and key come by the environment (BENCH_BODY, BENCH_KEY)."""
        if self.name == "builtin":
            return [sys.executable, "-m", "bench.load", url, "--connections", str(connections)]
        script = str(Path(__file__).with_name("wrk.lua"))
        flags = ["--threads", "1", "--duration", "1h", "--timeout", f"{WRK_TIMEOUT_S}s"]
        return ["wrk", *flags, "--connections", str(connections), "--script", script, url]


WRK = Generator("wrk", cuts_off=True)
BUILTIN = Generator("builtin", cuts_off=False)


def choose_generator(name: str) -> Generator:
    """The generator called `name`; "auto" is wrk where it is installed. Raises BenchError when it is not."""
    is_there = shutil.which("wrk") is not None
    if name == "wrk" and not is_there:
        raise BenchError("wrk is not on PATH. Install it, or use --load builtin.")
    return WRK if is_there and name != "builtin" else BUILTIN


def parse_report(output: str) -> Report:
    """The last line of a generator's output. Raises BenchError when it is no report."""
    last = output.strip().rpartition("\n")[2]
    try:
        return msgspec.json.decode(last, type=Report)
    except msgspec.DecodeError:
        raise BenchError(f"The load generator gave no report:\n{output[-2000:]}") from None
