"""Reads a server's log as a collector would, and fails at the first line that it could not take."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ALWAYS = frozenset({"time", "level", "logger", "message"})
FIELDS = ALWAYS | {
    "request_id",
    "backend",
    "spool",
    "rows",
    "reason",
    "status",
    "part",
    "address",
    "exception",
}
_LEVELS = {"debug", "info", "warning", "error", "critical"}
_TOLERANCE = timedelta(seconds=5)
_SHIFTED = timedelta(days=70)  # tests/shifted_clock puts some processes before the end of a month


def parse_log(path: Path, ahead: timedelta = _TOLERANCE) -> list[dict[str, Any]]:
    """Every whole line of the file, checked; its clock may be `ahead` of ours."""
    text, latest = path.read_text(), datetime.now(UTC) + ahead
    return [_parse(path, line, latest) for line in text[: text.rfind("\n") + 1].splitlines()]


def _parse(path: Path, text: str, latest: datetime) -> dict[str, Any]:
    try:
        line: dict[str, Any] = json.loads(text)
    except ValueError:
        raise AssertionError(f"{path.name} has a line that is not JSON: {text[:300]}") from None
    assert set(line) >= ALWAYS, f"{path.name} misses a field: {text[:300]}"
    assert set(line) <= FIELDS, f"{path.name} has a field that is not documented: {text[:300]}"
    assert line["level"] in _LEVELS, text[:300]
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0), text[:300]
    assert datetime.fromisoformat(line["time"]) <= latest, text[:300]
    return line


def unreadable_logs(folder: Path) -> list[str]:
    """What is wrong with the logs of web processes in `folder`: for the end of a run."""
    problems = []
    for path in sorted(folder.glob("web-*.log")):
        try:
            parse_log(path, _SHIFTED)
        except AssertionError as problem:
            problems.append(str(problem))
    return problems
