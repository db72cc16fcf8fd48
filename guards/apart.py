"""What runs in the process that looks through long texts. It knows nothing of Django."""

import multiprocessing
import os
import threading
from functools import lru_cache
from multiprocessing.connection import wait

from guards.finding import Finding
from guards.scanner import Scanner, Wanted


def scan_all(wanted: Wanted, texts: list[str]) -> list[tuple[Finding, ...]]:
    """What is in each text."""
    scanner = _scanner(wanted)
    return [scanner.scan(text) for text in texts]


@lru_cache(maxsize=2)
def _scanner(wanted: Wanted) -> Scanner:
    return Scanner(wanted, finds_names=True)


def end_with_parent() -> None:
    """A worker that is killed takes its process along."""
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_wait_and_end, args=(parent.sentinel,), daemon=True).start()


def _wait_and_end(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
