"""The files that workers count in: taken over, shared by nobody, bounded, and no danger when they are damaged."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing import metrics_file
from routing.metric_names import OPEN_STREAMS, OTHER, REQUESTS
from routing.metrics import Metrics
from routing.metrics_file import FILE_BYTES, Key, MetricsFile, MetricsFull, read_files
from routing.trace import Trace


def values(directory: Path, key: Key) -> list[tuple[int, ...]]:
    return [reading.values[key] for reading in read_files(directory) if key in reading.values]


def test_two_workers_hold_two_files_and_the_next_one_counts_on(tmp_path: Path) -> None:
    first, second = MetricsFile.claim(tmp_path), MetricsFile.claim(tmp_path)
    assert (first.number, second.number) == (0, 1)
    first.values[first.place(("a",))] += 3
    second.values[second.place(("a",))] += 4
    first.close()
    assert [(reading.number, reading.is_alive) for reading in read_files(tmp_path)] == [(0, False), (1, True)]
    heir = MetricsFile.claim(tmp_path)
    heir.values[heir.place(("a",))] += 1
    assert heir.number == 0
    assert values(tmp_path, ("a",)) == [(4,), (4,)]
    first.values[first.place(("a",))] += 1  # a late figure of who has let go is not lost either
    assert values(tmp_path, ("a",)) == [(5,), (4,)]


def test_a_reader_does_not_end_the_writers_hold(tmp_path: Path) -> None:
    writer = MetricsFile.claim(tmp_path)
    for _ in range(3):
        assert [(reading.pid, reading.is_alive) for reading in read_files(tmp_path)] == [(os.getpid(), True)]
    assert MetricsFile.claim(tmp_path).number == 1
    assert writer.number == 0


@given(st.lists(st.tuples(st.text(min_size=1), st.integers(1, 20), st.integers(-(2**63), 2**63 - 1))))
def test_what_is_written_is_read(written: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics_file, "FILE_BYTES", 512 * 1024)
        directory = Path(os.environ["GATEWAY_HOME"]) / "metrics-property"
        file, expected = MetricsFile.claim(directory), {}
        for name, slots, value in written:
            key = (name.encode("utf-8", "replace").decode(), str(slots))
            file.values[file.place(key, slots) + slots - 1] = value
            expected[key] = value
        found = {key: row[-1] for key, row in read_files(directory)[file.number].values.items()}
        assert expected.items() <= found.items()
        file.close()


def test_a_layout_that_changed_is_a_new_series(tmp_path: Path) -> None:
    old = MetricsFile.claim(tmp_path)
    old.values[old.place(("a",), 3)] = 7
    old.close()
    new = MetricsFile.claim(tmp_path)
    new.values[new.place(("a",), 4)] = 8
    assert values(tmp_path, ("a",)) == [(8, 0, 0, 0)]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * FILE_BYTES, b"\xff" * 100])
def test_a_file_that_is_not_ours_is_left_out_and_then_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "worker-0.metrics"
    path.write_bytes(content)
    assert read_files(tmp_path) == []
    file = MetricsFile.claim(tmp_path)
    file.values[file.place(("a",))] += 1
    assert values(tmp_path, ("a",)) == [(1,)]


def test_a_damaged_block_hides_what_is_behind_it_and_no_more(tmp_path: Path) -> None:
    file = MetricsFile.claim(tmp_path)
    file.values[file.place(("a",))] = 1
    second = file.place(("b",))
    file.values[second - 3] = -5  # the key's length
    assert values(tmp_path, ("a",)) == [(1,)]
    assert values(tmp_path, ("b",)) == []


def fill(file: MetricsFile) -> None:
    for number in range(10_000):
        file.place((f"key-{number}",))


def test_a_file_without_room_says_so_and_keeps_a_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "FILE_BYTES", 300 * 1024)
    file = MetricsFile.claim(tmp_path)
    with pytest.raises(MetricsFull):
        fill(file)
    assert file.place(("folded",), may_use_reserve=True)
    with pytest.raises(MetricsFull):
        file.place(("key-too-many",))


def test_too_many_teams_fold_and_every_request_is_still_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "FILE_BYTES", 300 * 1024)
    metrics, entry = Metrics(tmp_path), Trace("chat").to_entry()
    entry.attempts, entry.backend, entry.model = 1, "a-backend", "a-model"
    for number in range(2000):
        entry.team = f"team-{number}"
        metrics.count(entry, {"a-model"})
    (reading,) = read_files(tmp_path)
    counted = {key: row[0] for key, row in reading.values.items() if key[0] == REQUESTS.name}
    assert sum(counted.values()) == 2000
    assert sum(count for key, count in counted.items() if OTHER in key) > 1000
    assert any("team-0" in key for key in counted)


def test_gauges_of_the_last_worker_are_not_the_next_ones(tmp_path: Path) -> None:
    metrics, key = Metrics(tmp_path), (OPEN_STREAMS.name,)
    metrics.set(OPEN_STREAMS, 9)
    assert values(tmp_path, key) == [(9,)]
    metrics.close()
    Metrics(tmp_path)
    assert values(tmp_path, key) == [(0,)]
