"""Liveness and readiness of one worker, answered at once from what its monitor knows."""

import json

from gateway_site.monitor import Monitor
from routing.call import Reply


def livez() -> Reply:
    """200 as long as the event loop runs."""
    return Reply(body=b'{"status":"ok"}')


def readyz(monitor: Monitor) -> Reply:
    """200 when this worker can serve; `degraded` names, by code and sentence, what is not well without stopping it."""
    faults = monitor.faults()
    is_ready = all(fault.code != "spool_full" for fault in faults)
    body = {
        "status": "unavailable" if not is_ready else "degraded" if faults else "ok",
        "degraded": [{"code": fault.code, "message": fault.message} for fault in faults],
        "configuration_version": monitor.gateway.configuration.snapshot.version,
    }
    return Reply(200 if is_ready else 503, json.dumps(body).encode())
