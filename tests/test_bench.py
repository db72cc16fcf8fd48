"""The benchmark: its arithmetic, its built-in generator's parser, and a short run of the whole."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import Measure, Sample, ledger_errors, percentile, ratio, summarise, table
from bench.generators import BUILTIN, BenchError, Report, choose_generator, parse_report
from bench.load import ChunkedBody, build_request
from bench.measure import BOTH_OF_OURS, Reading, build_body, make_sample
from bench.memory import Reading as MemoryReading
from bench.memory import summarise_memory
from gateway_site.home import BASE_DIR

MEASURE = Measure("plain", "plain, 32 connections", throughput="busy", latency="idle")


def sample(rps: float = 0, p50_ms: float = 0, p99_ms: float = 0, errors: int = 0) -> Sample:
    return Sample(rps, p50_ms, p99_ms, cpu_us=100.0, cpu_share=1.0, errors=errors)


def test_percentile_is_a_value_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert percentile([7.0], 99) == 7
    assert percentile([], 50) == 0


def test_ratio_of_nothing_is_zero() -> None:
    assert ratio(2500, 10_000) == 0.25
    assert ratio(2500, 0) == 0


def test_summary_takes_medians_over_rounds_and_sums_errors() -> None:
    rounds = {
        ("busy", "yardstick"): [sample(rps=1000), sample(rps=9000), sample(rps=2000)],
        ("busy", "gateway"): [sample(rps=100), sample(rps=500, errors=2), sample(rps=900)],
        ("idle", "direct"): [sample(p50_ms=0.1, p99_ms=0.2)] * 3,
        ("idle", "yardstick"): [sample(p50_ms=0.3, p99_ms=0.6)] * 3,
        ("idle", "gateway"): [
            sample(p50_ms=0.5, p99_ms=1.2, errors=1),
            *[sample(p50_ms=0.6, p99_ms=1.3)] * 2,
        ],
        ("another load", "gateway"): [sample(errors=40)],
    }
    row = summarise(MEASURE, rounds)
    assert (row["yardstick_rps"], row["governed_rps"], row["ratio"]) == (2000, 500, 0.25)
    assert (row["added_p50_ms"], row["added_p99_ms"]) == (0.5, 1.1)
    assert row["yardstick_added_p50_ms"] == 0.2
    assert row["errors"] == 3
    assert "0.25" in table([MEASURE], {"plain": row})


def test_table_leaves_out_what_was_not_measured() -> None:
    shown = table([MEASURE], {"shipper": {"records_per_s": 8075.6, "errors": 0}})
    assert "8,076/s" in shown
    assert MEASURE.title not in shown


def test_memory_is_told_from_when_all_had_its_size() -> None:
    readings = [MemoryReading(n * 1000, 10**8 + n * 10**5, 10**6) for n in range(1, 11)]
    found = summarise_memory(readings)
    assert (found["requests"], found["gateway_warm_mb"], found["gateway_mb"]) == (10_000, 100.2, 101.0)
    assert (found["gateway_bytes_per_request"], found["store_bytes_per_request"]) == (100, 0)
    assert "100.0 bytes a request, over 10,000" in table([], {"memory": found})


@pytest.mark.parametrize(
    ("rows", "answered", "backend_calls", "in_flight", "wrong"),
    [
        (100, 100, 100, 0, 0),
        (132, 100, 132, 32, 0),  # all in flight were called and recorded
        (99, 100, 100, 0, 1),  # an answer without a row
        (120, 100, 125, 32, 5),  # a call to the backend without a row
        (101, 100, 100, 0, 1),  # a row that nobody asked for
    ],
)
def test_ledger_is_compared_with_answers_and_backend_calls(
    rows: int, answered: int, backend_calls: int, in_flight: int, wrong: int
) -> None:
    found = ledger_errors(rows=rows, answered=answered, backend_calls=backend_calls, in_flight=in_flight)
    assert found == wrong


def test_rate_is_the_slope_of_the_backends_counter() -> None:
    readings = [Reading(10.0, 500, 1.0), Reading(11.0, 1500, 1.7), Reading(12.0, 2500, 2.5)]
    made = make_sample(readings, Report(9999, 0, 0, 1.5, 2.5), errors=0)
    assert (made.rps, made.cpu_us, made.cpu_share, made.p50_ms) == (1000, 750, 0.75, 1.5)


def test_waves_of_beginning_streams_hardly_move_the_rate() -> None:
    waves = [Reading(tenth / 10, 700 * (tenth // 17), 0) for tenth in range(100)]
    made = make_sample(waves, Report(9999, 0, 0, 1.5, 2.5), errors=0)
    assert made.rps == pytest.approx(700 / 1.7, rel=0.05)


def test_load_that_nobody_served_is_an_error() -> None:
    with pytest.raises(BenchError, match="Nothing was served"):
        make_sample([Reading(1.0, 5, 0), Reading(2.0, 5, 0)], Report(0, 0, 32, 0, 0), errors=32)


def test_wrk_report_is_read_from_behind_its_own_text() -> None:
    output = """Running 60m test @ http://127.0.0.1:8000/v1/chat/completions
  1 threads and 32 connections
^C  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     5.61ms    1.02ms  15.50ms   82.11%
    Req/Sec     5.70k   322.11     6.20k    71.00%
  28401 requests in 5.00s, 39.51MB read
Requests/sec:   5680.11
Transfer/sec:      7.90MB
{"answered": 28401, "bad_answers": 3, "socket_errors": 1, "p50_ms": 5.512, "p99_ms": 9.870}
"""
    assert parse_report(output) == Report(28401, 3, 1, 5.512, 9.87)


@pytest.mark.parametrize(
    "output", ["", "unable to connect to 127.0.0.1:1 Connection refused\n", '{"answered": 1}']
)
def test_anything_else_than_a_report_is_an_error(output: str) -> None:
    with pytest.raises(BenchError, match="no report"):
        parse_report(output)


def test_wrk_is_used_only_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert choose_generator("auto") is BUILTIN
    with pytest.raises(BenchError, match="not on PATH"):
        choose_generator("wrk")


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(0, 400), max_size=8),
    st.booleans(),
)
def test_end_of_a_chunked_body_is_found_however_it_is_split(
    chunks: list[bytes], cuts: list[int], is_stream: bool
) -> None:
    chunks = [*chunks, b"data: [DONE]\n\n"] if is_stream else chunks
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    edges = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    body = ChunkedBody()
    *before, last = [body.feed(data[start:end]) for start, end in pairwise(edges)]
    assert not any(before)
    assert last
    assert body.is_whole_stream() or not is_stream


def test_requests_are_alike_but_for_the_stream_flag() -> None:
    plain, streamed = (json.loads(build_body("demo-chat", streams=flag)) for flag in (False, True))
    assert len(plain["messages"][0]["content"]) == 700
    assert streamed == {**plain, "stream": True}
    assert build_request("http://127.0.0.1:80/v1/x", b"{}", "k").endswith(b"\r\nContent-Length: 2\r\n\r\n{}")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quick_run_writes_a_result_without_errors(tmp_path: Path) -> None:
    result_file, temporary = tmp_path / "bench.json", tmp_path / "t"
    temporary.mkdir(mode=0o755)
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--load", "builtin", "--output", str(result_file)],
        cwd=BASE_DIR,
        env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert list(temporary.iterdir()) == [], "the benchmark leaves nothing behind"
    result = json.loads(result_file.read_text())
    for key in ("plain", "plain_128", "stream"):
        row = result[key]
        assert row["errors"] == 0, result
        assert row["yardstick_rps"] > 0
        assert row["governed_rps"] > 0
        assert row["ratio"] == ratio(row["governed_rps"], row["yardstick_rps"])
        assert isinstance(row["added_p50_ms"], float)
        assert isinstance(row["added_p99_ms"], float)
    assert (result["shipper"]["records"], result["shipper"]["errors"]) == (1000, 0)
    assert result["memory"]["errors"] == 0
    assert result["memory"]["requests"] >= 500
    assert result["load"] == "builtin"
    assert {"python", "cpus", "at"} <= set(result)
    assert {entry["target"] for entry in result["rounds"]} == {"direct", *BOTH_OF_OURS}
