"""Where scanning happens: short texts at once, long ones in a process of their own, so that other calls do not wait."""

import asyncio
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from guards.apart import end_with_parent, scan_all
from guards.book import NO_GUARDS, GuardBook
from guards.finding import Finding
from guards.scanner import Scanner, Wanted

logger = logging.getLogger(__name__)

_AT_ONCE = 4_000  # by Scanner.weight
_PROCESSES = 1


class GuardsAway(Exception):
    """The texts could not be looked through, or not in time."""


class Runner:
    """One worker's. Its process begins with the first policy."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._pool: ProcessPoolExecutor | None = None
        self._making: asyncio.Future[Scanner | None] | None = None  # of the scanner for the policies in force
        self.book: GuardBook = NO_GUARDS

    def take(self, book: GuardBook) -> None:
        """The policies from now on. What they look for is made ready meanwhile, here and in the process."""
        wanted = book.wanted
        if wanted != self.book.wanted:
            self._making = None
            if wanted.types:
                self._making = asyncio.get_running_loop().run_in_executor(None, _make_scanner, wanted)
                self._submit(wanted, [])
        self.book = book

    async def scan(self, texts: Sequence[str]) -> list[Sequence[Finding]]:
        """What is in each text. Raises GuardsAway."""
        scanner = await self._ready()
        new = list(dict.fromkeys(text for text in texts if scanner.known(text) is None))
        if sum(map(len, new)) > _AT_ONCE or sum(map(scanner.weight, new)) > _AT_ONCE:
            for text, found in zip(new, await self._scan_apart(scanner.wanted, new), strict=True):
                scanner.remember(text, found)
        return [scanner.scan(text) for text in texts]

    async def _ready(self) -> Scanner:
        making = self._making
        if making is None:
            raise GuardsAway("there is nothing that could look")
        if not making.done():
            await asyncio.wait([making], timeout=self._limit_s)
        scanner = making.result() if making.done() else None
        if scanner is None:
            raise GuardsAway("what looks is not ready")
        return scanner

    async def close(self) -> None:
        """End the process, and wait until what it shares with us is given back."""
        if (pool := self._drop()) is not None:
            await asyncio.to_thread(pool.shutdown, cancel_futures=True)

    def _drop(self) -> ProcessPoolExecutor | None:
        pool, self._pool = self._pool, None
        return pool

    async def _scan_apart(self, wanted: Wanted, texts: list[str]) -> list[tuple[Finding, ...]]:
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._submit(wanted, texts)
        except TimeoutError:
            raise GuardsAway(f"it took longer than {self._limit_s} s") from None
        except BrokenProcessPool:
            self._drop()  # the next call begins another
            raise GuardsAway("its process ended") from None

    def _submit(self, wanted: Wanted, texts: list[str]) -> "asyncio.Future[list[tuple[Finding, ...]]]":
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(_PROCESSES, mp_context=context, initializer=end_with_parent)
        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, scan_all, wanted, texts)
        except BrokenProcessPool:
            self._drop()
            raise
        future.add_done_callback(_note_failure)
        return future


def _make_scanner(wanted: Wanted) -> Scanner | None:
    """In a thread. None when it cannot be made: then no guard can look."""
    try:
        return Scanner(wanted)
    except Exception:
        logger.exception("What guards look for cannot be made ready.")
        return None


def _note_failure(future: "asyncio.Future[list[tuple[Finding, ...]]]") -> None:
    if not future.cancelled() and (error := future.exception()) is not None:
        logger.error("Texts could not be looked through: %r", error)
