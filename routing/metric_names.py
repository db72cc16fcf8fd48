"""Every metric that a worker counts: its name, labels, unit and buckets. Reference: docs/reference/metrics.md."""

from dataclasses import dataclass
from typing import Literal

from billing.admission.account import AdmittedKind
from billing.admission.refusals import RefusalKind

OTHER = "_other"  # no name of ours begins with an underscore
NONE = "_none"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. Workers keep whole numbers of a small unit; `per_unit` of them make one exposed unit.

    Buckets are upper bounds, inclusive, in the small unit. Gauges are exposed with one more label, `worker`.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    per_unit: int = 1
    buckets: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """Values of one series: one, or a histogram's sum, its buckets, and the bucket above them."""
        return len(self.buckets) + 2 if self.buckets else 1


# Bounds of OpenTelemetry's GenAI conventions: request duration and time to first token, in milliseconds.
_DURATION_MS = tuple(10 * 2**power for power in range(14))
_FIRST_BYTE_MS = (1, 5, 10, 20, 40, 60, 80, 100, 250, 500, 750, 1000, 2500, 5000, 7500, 10_000)
_OVERHEAD_US = (50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 500_000, 1_000_000)
_WAIT_MS = (10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000, 120_000, 300_000)
_STORE_CALL_US = (100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000)
_LAG_US = (1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)

REQUESTS = Metric(
    "gateway_requests",
    "counter",
    ("operation", "team", "model", "status", "code", "reason"),
    "Requests under /v1 by how they ended; status is the ledger's, code the class of the HTTP status.",
)
DURATION = Metric(
    "gateway_request_duration_seconds",
    "histogram",
    ("operation", "model", "streamed"),
    "From admission to the record, of requests that called a backend.",
    1000,
    _DURATION_MS,
)
FIRST_BYTE = Metric(
    "gateway_time_to_first_byte_seconds",
    "histogram",
    ("operation", "model", "backend", "streamed"),
    "From admission to the backend's first byte (of a plain answer: the whole of it).",
    1000,
    _FIRST_BYTE_MS,
)
OVERHEAD = Metric(
    "gateway_overhead_seconds",
    "histogram",
    ("operation",),
    "Time in the gateway before the backend was called.",
    1_000_000,
    _OVERHEAD_US,
)
TOKENS = Metric(
    "gateway_tokens",
    "counter",
    ("kind", "team", "model"),
    "Tokens by kind; the kinds plain_input, cached_input, cache_write and output do not overlap.",
)
REASONING_TOKENS = Metric(
    "gateway_reasoning_tokens", "counter", ("team", "model"), "The part of output tokens spent on reasoning."
)
ESTIMATED = Metric(
    "gateway_estimated_requests",
    "counter",
    ("team", "model"),
    "Requests whose tokens were counted here, because the backend reported none.",
)
COST = Metric("gateway_cost_usd", "counter", ("team", "model"), "Cost in US dollars.", 1_000_000_000)
BACKEND_ERRORS = Metric(
    "gateway_backend_errors", "counter", ("backend", "reason"), "Calls to a backend that failed."
)
BACKEND_TRIPS = Metric(
    "gateway_backend_trips",
    "counter",
    ("backend",),
    "How often this worker decided to leave a backend alone.",
)
BACKEND_RETURNS = Metric(
    "gateway_backend_returns",
    "counter",
    ("backend",),
    "How often a probe of this worker found a backend well again.",
)
BACKENDS_AWAY = Metric("gateway_backends_away", "gauge", (), "Backends that are left alone, or being probed.")
KEY_HITS = Metric("gateway_key_cache_hits", "counter", (), "Keys that the worker knew already.")
KEY_MISSES = Metric("gateway_key_cache_misses", "counter", (), "Keys that had to be looked up in PostgreSQL.")
LOOP_LAG = Metric(
    "gateway_event_loop_lag_seconds",
    "histogram",
    (),
    "How much later than planned a timer of the event loop ran.",
    1_000_000,
    _LAG_US,
)
QUEUE_WAIT = Metric(
    "gateway_queue_wait_seconds",
    "histogram",
    ("team", "end"),
    "Time that calls waited for room at a limit or budget, by how the waiting ended.",
    1000,
    _WAIT_MS,
)
WAITING = Metric("gateway_queue_waiting", "gauge", (), "Calls that wait for room at a limit or budget.")
ADMISSIONS = Metric(
    "gateway_admissions",
    "counter",
    ("outcome",),
    "Calls that a limit or budget applies to, by what became of them before a backend was called.",
)
ADMISSION_OUTCOMES = (AdmittedKind.COUNTED, AdmittedKind.UNCOUNTED, *RefusalKind)
GUARD_FINDINGS = Metric(
    "gateway_guard_findings",
    "counter",
    ("guard", "type", "action"),
    "What guards found in requests; the action unavailable: a guard could not look, and the call went on.",
)
STORE_CALL = Metric(
    "gateway_counters_call_seconds",
    "histogram",
    (),
    "Time of one exchange with the store of the counters; what was not answered is not in it.",
    1_000_000,
    _STORE_CALL_US,
)
LOST_CONNECTIONS = Metric(
    "gateway_counters_lost_connections", "counter", (), "Connections to the store of the counters that broke."
)
REBUILDS = Metric(
    "gateway_counters_rebuilds", "counter", (), "How often the counters of a department were made anew."
)
COUNTERS_CONNECTED = Metric(
    "gateway_counters_connected", "gauge", (), "1 while the store of the counters can be asked."
)
CLOSED_DEPARTMENTS = Metric(
    "gateway_counters_closed_departments", "gauge", (), "Departments whose counters cannot be used now."
)
UNBOOKED_ENDS = Metric(
    "gateway_counters_unbooked_ends", "gauge", (), "Ends of calls that are not in the counters yet."
)
IN_FLIGHT = Metric("gateway_requests_in_flight", "gauge", (), "Requests admitted and not yet recorded.")
OPEN_STREAMS = Metric("gateway_open_streams", "gauge", (), "Streams that are being sent.")
CACHED_KEYS = Metric("gateway_key_cache_size", "gauge", (), "Keys that the worker knows.")
CONFIGURATION = Metric("gateway_configuration_version", "gauge", (), "The version that is in force.")
CONFIGURATION_CHECKED = Metric(
    "gateway_configuration_checked_timestamp_seconds",
    "gauge",
    (),
    "When the configuration was last known to be current.",
    1000,
)

METRICS = (
    REQUESTS,
    DURATION,
    FIRST_BYTE,
    OVERHEAD,
    TOKENS,
    REASONING_TOKENS,
    ESTIMATED,
    COST,
    BACKEND_ERRORS,
    BACKEND_TRIPS,
    BACKEND_RETURNS,
    BACKENDS_AWAY,
    KEY_HITS,
    KEY_MISSES,
    LOOP_LAG,
    QUEUE_WAIT,
    WAITING,
    ADMISSIONS,
    GUARD_FINDINGS,
    STORE_CALL,
    LOST_CONNECTIONS,
    REBUILDS,
    COUNTERS_CONNECTED,
    CLOSED_DEPARTMENTS,
    UNBOOKED_ENDS,
    IN_FLIGHT,
    OPEN_STREAMS,
    CACHED_KEYS,
    CONFIGURATION,
    CONFIGURATION_CHECKED,
)
