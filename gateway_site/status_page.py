"""`/status/`: what operators of the gateway want to see first; for people who may use the administration."""

from dataclasses import dataclass
from datetime import UTC, datetime

import psutil  # type: ignore[import-untyped]
from asgiref.sync import sync_to_async
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from audit.models import AdminEvent
from gateway_site.faults import CounterFacts, Fault
from gateway_site.monitor import MONITOR, Monitor
from gateway_site.version import VERSION
from routing import metric_names as names
from routing.metric_names import Metric
from routing.metrics_file import Reading, read_files
from teams.permissions import access_of
from teams.roles import Action

_LAST_CHANGES = 20


@dataclass(frozen=True, slots=True)
class Worker:
    """A living web process of this host; memory is None when it ended in this moment. `is_counting`: whether it
    is connected with the store of the counters."""

    number: int
    pid: int
    started_at: datetime
    in_flight: int
    open_streams: int
    configuration_version: int
    is_counting: bool
    memory_bytes: int | None


@require_safe
@never_cache
async def status(request: ASGIRequest) -> HttpResponse:
    """What is degraded, the workers of this host, its shipper and stores, and the last changes.

    The spool belongs to the event loop, so the faults are asked here; the rest is done in a thread.
    """
    monitor: Monitor = request.scope[MONITOR]
    render_page = sync_to_async(_page)
    page: HttpResponse = await render_page(request, monitor, monitor.faults(), monitor.counters())
    return page


def _page(
    request: ASGIRequest, monitor: Monitor, faults: list[Fault], counters: CounterFacts
) -> HttpResponse:
    if not request.user.is_authenticated:
        return redirect_to_login(request.get_full_path())
    access = access_of(request.user)
    if not access.may(Action.ADMINISTRATION_ENTER):
        raise PermissionDenied
    metrics, host = monitor.gateway.metrics, monitor.host
    context = {
        "version": VERSION,
        "faults": faults,
        "is_ready": all(fault.code != "spool_full" for fault in faults),
        "host": host,
        "database": monitor.database,
        "store": monitor.store,
        "counters": counters,
        "spool_max_bytes": monitor.gateway.options.spool_max_bytes,
        "shipped_at": _moment(host.shipper.last_success_at) if host else None,
        "kept_at": _moment(host.shipper.keeper.turn_at) if host else None,
        "this_worker": metrics.worker,
        "workers": list_workers(read_files(metrics.directory)),
        "changes": AdminEvent.objects.all()[:_LAST_CHANGES] if access.may(Action.EVENT_VIEW) else None,
    }
    return render(request, "site/status.html", context)


def list_workers(readings: list[Reading]) -> list[Worker]:
    """The living ones."""
    return [_worker(reading) for reading in readings if reading.is_alive]


def _worker(reading: Reading) -> Worker:
    def gauge(metric: Metric) -> int:
        return reading.values.get((metric.name,), (0,))[0]

    return Worker(
        number=reading.number,
        pid=reading.pid,
        started_at=datetime.fromtimestamp(reading.started_at_ns / 1e9, UTC),
        in_flight=gauge(names.IN_FLIGHT),
        open_streams=gauge(names.OPEN_STREAMS),
        configuration_version=gauge(names.CONFIGURATION),
        is_counting=gauge(names.COUNTERS_CONNECTED) > 0,
        memory_bytes=_memory_bytes(reading.pid),
    )


def _memory_bytes(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
