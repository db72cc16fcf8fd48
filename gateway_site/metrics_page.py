"""`/metrics`: the figures of all workers of this host, in Prometheus' text form, for who has the metrics token."""

import asyncio
import hmac
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from django.conf import settings
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from billing.shipper_status import KeeperStatus
from gateway_site.faults import CODES
from gateway_site.monitor import Monitor
from gateway_site.version import VERSION
from routing.call import Reply
from routing.metric_names import METRICS, Metric
from routing.metrics_file import Reading, read_files


async def render_metrics(monitor: Monitor, headers: Mapping[str, str]) -> Reply:
    """The exposition. 404 when no token is set, 401 without the right one; API keys open nothing here."""
    token = settings.GATEWAY_METRICS_TOKEN
    if not token:
        return Reply(404, b'{"error":"GATEWAY_METRICS_TOKEN is not set, so there are no metrics here."}')
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
        return Reply(401, b'{"error":"The metrics token is needed."}', {"www-authenticate": "Bearer"})
    monitor.gateway.vitals.publish()
    site = _site_families(monitor)
    body, content_type = await asyncio.to_thread(
        _render, monitor.gateway.metrics.directory, site, headers.get("accept", "")
    )
    return Reply(body=body, headers={"content-type": content_type})


def _render(directory: Path, site: list[Family], accept: str) -> tuple[bytes, str]:
    readings = read_files(directory)
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*worker_families(readings), *_process_families(readings), *site]))
    return encode(registry), content_type


class _Collected(Collector):
    """Families that are made already, as the encoder takes them."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Family]:
        """All of them."""
        return iter(self._families)


def worker_families(readings: list[Reading]) -> Iterator[Family]:
    """What workers counted: counters and histograms of all, dead or alive, summed; gauges of the living."""
    series: dict[str, list[tuple[list[str], tuple[int, ...]]]] = defaultdict(list)
    for reading in readings:
        for (name, *labels), values in reading.values.items():
            series[name].append((labels, values))
    for metric in METRICS:
        yield _gauges(metric, readings) if metric.kind == "gauge" else _sums(metric, series[metric.name])


def _gauges(metric: Metric, readings: list[Reading]) -> Family:
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=["worker"])
    for reading in readings:
        if reading.is_alive and (values := reading.values.get((metric.name,))):
            family.add_metric([str(reading.number)], values[0] / metric.per_unit)
    return family


def _sums(metric: Metric, series: list[tuple[list[str], tuple[int, ...]]]) -> Family:
    sums: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * metric.slots)
    for labels, values in series:
        if len(labels) == len(metric.labels) and len(values) == metric.slots:  # else another release's
            total = sums[tuple(labels)]
            total[:] = [one + other for one, other in zip(total, values, strict=True)]
    if metric.kind == "counter":
        counter = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels_, (value,) in sorted(sums.items()):
            counter.add_metric(labels_, value / metric.per_unit)
        return counter
    histogram = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
    for labels_, (total_, *counts) in sorted(sums.items()):
        histogram.add_metric(labels_, list(_cumulative(metric, counts)), total_ / metric.per_unit)
    return histogram


def _cumulative(metric: Metric, counts: list[int]) -> Iterator[tuple[str, float]]:
    count = 0
    for bound, more in zip((*metric.buckets, None), counts, strict=True):
        count += more
        yield "+Inf" if bound is None else repr(bound / metric.per_unit), count


def _process_families(readings: list[Reading]) -> list[Family]:
    """The operating system's figures of each living worker, in the names that Prometheus clients use."""
    figures: list[tuple[Family, Callable[[psutil.Process], float]]] = [
        (
            CounterMetricFamily("process_cpu_seconds", "User and system time.", labels=["worker"]),
            lambda process: sum(process.cpu_times()[:2]),
        ),
        (
            GaugeMetricFamily("process_resident_memory_bytes", "Resident memory.", labels=["worker"]),
            lambda process: process.memory_info().rss,
        ),
        (
            GaugeMetricFamily("process_open_fds", "Open files and connections.", labels=["worker"]),
            lambda process: process.num_fds(),
        ),
        (
            GaugeMetricFamily("process_start_time_seconds", "Start, since 1970.", labels=["worker"]),
            lambda process: process.create_time(),
        ),
    ]
    for reading in readings:
        if reading.is_alive:
            for family, figure in figures:
                _add_figure(family, reading, figure)
    return [family for family, _ in figures]


def _add_figure(family: Family, reading: Reading, figure: Callable[[psutil.Process], float]) -> None:
    try:
        value = figure(psutil.Process(reading.pid))
    except psutil.Error:  # it ended in this moment, or may not be looked at
        return
    family.add_metric([str(reading.number)], value)  # type: ignore[attr-defined]


def _site_families(monitor: Monitor) -> list[Family]:
    """What is true of the host and of this worker, rather than counted."""
    build = GaugeMetricFamily("gateway_build_info", "Always 1.", labels=["version", "python"])
    build.add_metric([VERSION, platform.python_version()], 1)
    families = [build, _degraded(monitor)]
    if (host := monitor.host) is not None:
        shipper = host.shipper
        families += [
            _gauge(
                "gateway_spool_bytes",
                "Disk space of all segments, reserved space included.",
                host.spool_bytes,
            ),
            _gauge(
                "gateway_spool_max_bytes", "GATEWAY_SPOOL_MAX_BYTES.", monitor.gateway.options.spool_max_bytes
            ),
            _gauge(
                "gateway_spool_backlog_records", "Records that wait for PostgreSQL.", shipper.backlog_records
            ),
            _gauge(
                "gateway_spool_oldest_record_seconds",
                "Age of the oldest record that waits.",
                0 if shipper.oldest_at is None else time.time() - shipper.oldest_at,
            ),
            _gauge("gateway_shipper_up", "Whether a shipper runs on this host.", host.shipper_is_alive),
            CounterMetricFamily(
                "gateway_shipped_records", "Records brought to the ledger.", value=shipper.shipped_rows
            ),
            *_keeper_families(shipper.keeper),
        ]
        if shipper.last_success_at is not None:
            name = "gateway_shipper_last_success_timestamp_seconds"
            families.append(_gauge(name, "When the spool was last shipped whole.", shipper.last_success_at))
    if monitor.database is not None:
        quarantined = monitor.database.quarantined_records
        families.append(_gauge("gateway_quarantined_records", "Records in quarantine.", quarantined))
    if monitor.store is not None:
        store = monitor.store
        families += [
            _gauge("gateway_celery_waiting_tasks", "Tasks that no worker took yet.", store.waiting_tasks),
            _gauge("gateway_store_memory_bytes", "Memory that Redis or Valkey uses.", store.used_bytes),
            _gauge("gateway_store_memory_max_bytes", "Its maxmemory; 0 without a bound.", store.max_bytes),
        ]
    return families


def _keeper_families(keeper: KeeperStatus) -> Iterator[Family]:
    """What the shipper does for workers that died, and for the store."""
    yield _gauge(
        "gateway_keeper_waiting_spools", "Spools of dead workers to be counted.", keeper.waiting_spools
    )
    yield _gauge("gateway_counters_copies", "Records in the store until they are shipped.", keeper.copies)
    yield _gauge("gateway_counters_copies_bytes", "Memory that they take.", keeper.copies_bytes)
    yield CounterMetricFamily(
        "gateway_keeper_ended_holds", "Calls of silent workers that were ended.", value=keeper.ended_holds
    )
    yield CounterMetricFamily(
        "gateway_keeper_brought_records",
        "Records that came to the ledger from copies.",
        value=keeper.brought_records,
    )
    yield CounterMetricFamily(
        "gateway_keeper_rebuilds",
        "How often the shipper made a department's counters anew.",
        value=keeper.rebuilds,
    )
    if keeper.turn_at is not None:
        yield _gauge(
            "gateway_keeper_last_turn_timestamp_seconds", "When all of that was last done.", keeper.turn_at
        )


def _degraded(monitor: Monitor) -> Family:
    family = GaugeMetricFamily("gateway_degraded", "1 for what /readyz names.", labels=["code"])
    now = {fault.code for fault in monitor.faults()}
    for code in CODES:
        family.add_metric([code], code in now)
    return family


def _gauge(name: str, meaning: str, value: float) -> Family:
    return GaugeMetricFamily(name, meaning, value=value)
