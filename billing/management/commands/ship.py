"""`python manage.py ship`: the shipper of this host, until it is told to stop."""

import fcntl
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.db import InterfaceError, InternalError, OperationalError, connection

from billing.admission.commands import Commands
from billing.admission.links import DirectLink
from billing.admission.scripts import load_scripts
from billing.keeper import Keeper
from billing.management.service_command import ServiceCommand
from billing.partitions import create_ledger_partitions
from billing.shipper import Shipper
from billing.shipper_status import LOCK_FILE, ShipperReport, read_shipper_status

logger = logging.getLogger(__name__)

_IDLE_S = 0.1
_RETRY_S = 1.0
_KEEPER_S = 2.0  # for its turn to end; what it was at is done again by the next shipper


class Command(ServiceCommand):
    """Ships spooled usage records to the ledger."""

    help = "Ships spooled usage records to the ledger until stopped; one process per spool directory."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGTERM or SIGINT; what was spooled by then is shipped first."""
        directory: Path = settings.GATEWAY_SPOOL_DIR
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not (_take(lock) or _take(lock)):  # a health check looks at it for a moment
            raise CommandError(f"Another shipper works on {directory}.")
        stop = threading.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: stop.set())
        scripts = load_scripts()
        link = DirectLink(settings.GATEWAY_COUNTERS_URL, scripts)
        keeper = Keeper(link, Commands(scripts), since=read_shipper_status(directory).keeper)
        thread = threading.Thread(target=keeper.run, args=(stop,), name="keeper", daemon=True)
        thread.start()
        shipper = Shipper(directory, keeper, max_bytes=settings.GATEWAY_SPOOL_MAX_BYTES)
        _run(shipper, ShipperReport(directory, keeper.status), stop)
        thread.join(_KEEPER_S)


def _take(lock: int) -> bool:
    """Lock, or wait a little and say that it is held."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        time.sleep(_IDLE_S)
        return False
    return True


def _run(shipper: Shipper, report: ShipperReport, stop: threading.Event) -> None:
    """Ship, wait a little, ship again; while PostgreSQL is away, say so once and keep trying."""
    away = has_partitions = False
    while True:
        last_round = stop.is_set()
        try:
            if not has_partitions:
                create_ledger_partitions()
                has_partitions = True
            shipped = shipper.ship_all()
        except (OperationalError, InterfaceError, InternalError) as error:  # Internal: a read-only standby
            connection.close()
            if not away:
                logger.error(
                    "The ledger database is away; usage waits in the spool: %s", str(error).splitlines()[0]
                )
            away, shipped = True, 0
            report.failed(shipper.watermarks())
        else:
            if away:
                logger.info("The ledger database is back.", extra={"rows": shipped})
            away = False
            report.succeeded(shipped)
        if last_round:
            report.close()
            return
        if not shipped:
            stop.wait(_RETRY_S if away else _IDLE_S)
