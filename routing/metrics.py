"""What a worker counts of its requests, from their ledger entries: about 3 microseconds each, nothing per frame."""

from bisect import bisect_left
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from billing.admission.queue import Stay
from billing.ledger import LedgerEntry
from routing import metric_names as names
from routing.metric_names import NONE, OTHER, Metric
from routing.metrics_file import MetricsFile, MetricsFull

_MOST_ROWS = 20_000
_KINDS = ("plain_input", "cached_input", "cache_write", "output")
_CONFIGURED_LABELS = {
    "team",
    "model",
    "backend",
}  # what grows with the configuration, and folds when all is full


@dataclass(frozen=True, slots=True)
class _Row:
    """Where the figures of one kind of request are, so that their names are looked up once."""

    requests: int
    plain_input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int
    estimated: int
    cost: int
    duration: int
    first_byte: int
    overhead: int
    backend_errors: int


class Metrics:
    """One worker's counters, histograms and gauges."""

    def __init__(self, directory: Path) -> None:
        """Take a file of `directory`, and count on where its last worker stopped. Raises OSError."""
        self._file = MetricsFile.claim(directory)
        self.directory = directory
        self.worker = self._file.number
        self.open_streams = 0
        self._values = self._file.values
        self._rows: dict[tuple[str, str, str, str, bool, str, int, str], _Row] = {}
        for metric in names.METRICS:
            if metric.kind == "gauge":
                self.set(metric, 0)  # the last worker's
        # Made now, so that a first refusal is seen as a rise.
        self._admissions = {
            str(outcome): self._place(names.ADMISSIONS, (outcome,)) for outcome in names.ADMISSION_OUTCOMES
        }
        self._store_calls = self._place(names.STORE_CALL, ())

    def close(self) -> None:
        """Let the next worker count on."""
        self._file.close()

    def count(self, entry: LedgerEntry, models: Container[str]) -> None:
        """Add one request that has ended. A name that is not in `models` is a caller's invention: it folds."""
        model = entry.model if entry.model in models or not entry.model else OTHER
        key = (
            entry.operation,
            entry.team,
            model,
            entry.backend,
            entry.streamed,
            entry.status,
            entry.http_status,
            entry.reason,
        )
        row = self._rows.get(key) or self._remember(key)
        values = self._values
        values[row.requests] += 1
        if not entry.attempts:
            return
        plain_input = entry.input_tokens - entry.cached_input_tokens - entry.cache_write_tokens
        values[row.plain_input] += plain_input
        values[row.cached_input] += entry.cached_input_tokens
        values[row.cache_write] += entry.cache_write_tokens
        values[row.output] += entry.output_tokens
        values[row.reasoning] += entry.reasoning_tokens
        values[row.cost] += entry.cost_nanousd
        values[row.estimated] += entry.estimated
        values[row.backend_errors] += entry.status == "failed"
        self._observe(names.DURATION, row.duration, entry.duration_ms)
        if entry.first_byte_ms is not None:
            self._observe(names.FIRST_BYTE, row.first_byte, entry.first_byte_ms)
        if entry.overhead_us is not None:
            self._observe(names.OVERHEAD, row.overhead, entry.overhead_us)

    @contextmanager
    def open_stream(self) -> Iterator[None]:
        """Count a stream while it is being sent."""
        self.open_streams += 1
        try:
            yield
        finally:
            self.open_streams -= 1

    def count_stay(self, team: str, stay: Stay) -> None:
        """Add one call that waited in a queue, as its waiting ended."""
        place = self._place(names.QUEUE_WAIT, (team, stay.end.value))
        self._observe(names.QUEUE_WAIT, place, round(stay.waited_s * 1000))

    def set(self, metric: Metric, value: int) -> None:
        """Set a gauge without labels, in the metric's small unit."""
        self._values[self._place(metric, ())] = value

    def add(self, metric: Metric, value: int) -> None:
        """Raise a counter without labels."""
        self._values[self._place(metric, ())] += value

    def count_admission(self, outcome: str) -> None:
        """Count a call that a limit or budget applies to; one of ADMISSION_OUTCOMES."""
        self._values[self._admissions[outcome]] += 1

    def count_finding(self, guard: str, kind: str, action: str, count: int) -> None:
        """Count what a guard found in a request."""
        self._values[self._place(names.GUARD_FINDINGS, (guard, kind or NONE, action))] += count

    def count_backend_error(self, backend: str, reason: str) -> None:
        """Count a failed call after which another was made; that of the last one is the request's (see `count`)."""
        self._values[self._place(names.BACKEND_ERRORS, (backend, reason))] += 1

    def count_change(self, backend: str, *, is_trip: bool) -> None:
        """Count that a backend is left alone from now on, or that it is back."""
        self._values[self._place(names.BACKEND_TRIPS if is_trip else names.BACKEND_RETURNS, (backend,))] += 1

    def observe_store_call(self, seconds: float) -> None:
        """Add one exchange with the store of the counters."""
        self._observe(names.STORE_CALL, self._store_calls, int(seconds * 1_000_000))

    def observe(self, metric: Metric, value: int) -> None:
        """Add to a histogram without labels, in the metric's small unit."""
        self._observe(metric, self._place(metric, ()), value)

    def _observe(self, metric: Metric, place: int, value: int) -> None:
        self._values[place] += value
        self._values[place + 1 + bisect_left(metric.buckets, value)] += 1

    def _remember(self, key: tuple[str, str, str, str, bool, str, int, str]) -> _Row:
        if len(self._rows) >= _MOST_ROWS:
            self._rows.clear()  # the places stay; they are only looked up anew
        row = self._rows[key] = self._find(*key)
        return row

    def _find(
        self,
        operation: str,
        team: str,
        model: str,
        backend: str,
        streamed: bool,
        status: str,
        code: int,
        reason: str,
    ) -> _Row:
        team, model, backend, form = team or NONE, model or NONE, backend or NONE, str(streamed).lower()
        ended = (operation, team, model, status, f"{code // 100}xx", reason)
        if backend == NONE:  # no call was made: there is nothing to count but the request
            return _Row(self._place(names.REQUESTS, ended), *[self._file.scratch] * 11)
        plain_input, cached, written, output = (
            self._place(names.TOKENS, (kind, team, model)) for kind in _KINDS
        )
        errors = self._file.scratch
        if status == "failed":
            errors = self._place(names.BACKEND_ERRORS, (backend, reason))
        return _Row(
            requests=self._place(names.REQUESTS, ended),
            plain_input=plain_input,
            cached_input=cached,
            cache_write=written,
            output=output,
            reasoning=self._place(names.REASONING_TOKENS, (team, model)),
            estimated=self._place(names.ESTIMATED, (team, model)),
            cost=self._place(names.COST, (team, model)),
            duration=self._place(names.DURATION, (operation, model, form)),
            first_byte=self._place(names.FIRST_BYTE, (operation, model, backend, form)),
            overhead=self._place(names.OVERHEAD, (operation,)),
            backend_errors=errors,
        )

    def _place(self, metric: Metric, labels: tuple[str, ...]) -> int:
        """Where the series is. When the file is full, its names fold; when even that is full, it is not kept."""
        try:
            return self._file.place((metric.name, *labels), metric.slots)
        except MetricsFull:
            pairs = zip(metric.labels, labels, strict=True)
            folded = (OTHER if name in _CONFIGURED_LABELS else label for name, label in pairs)
            try:
                return self._file.place((metric.name, *folded), metric.slots, may_use_reserve=True)
            except MetricsFull:
                return self._file.scratch
