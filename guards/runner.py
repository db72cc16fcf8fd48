"""Where scanning happens: short texts at once, long ones in a process of their own, so that other calls do not wait."""

import asyncio
import logging
import multiprocessing
import time
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
_END_S = 2.0  # that the process has to end by itself


class GuardsAway(Exception):
    """The texts could not be looked through, or not in time."""


class Runner:
    """One worker's. Its process begins with the first policy."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._pool: ProcessPoolExecutor | None = None
        self._making: asyncio.Future[Scanner | None] | None = None  # of the scanner for the policies in force
        self._answered_at = 0.0  # when the process last did, by the monotonic clock; 0 before it is ready
        self.book: GuardBook = NO_GUARDS

    def take(self, book: GuardBook) -> None:
        """The policies from now on. What they look for is made ready meanwhile, here and in the process."""
        wanted, before, self.book = book.wanted, self.book.wanted, book
        if wanted != before:
            self._making = None
            if wanted.types:
                self._making = asyncio.get_running_loop().run_in_executor(None, _make_scanner, wanted)
                self._submit(wanted, [])

    async def scan(self, texts: Sequence[str], *, keeps: bool = True) -> list[Sequence[Finding]]:
        """What is in each text; `keeps` in mind what is in it, should it come again. Raises GuardsAway."""
        scanner = await self._ready()
        found = {text: scanner.known(text) for text in texts}
        new = [text for text, known in found.items() if known is None]
        if sum(map(len, new)) > _AT_ONCE or sum(map(scanner.weight, new)) > _AT_ONCE:
            found |= zip(new, await self._scan_apart(scanner.wanted, new), strict=True)
        else:
            found |= {text: scanner.look(text) for text in new}
        for text in new if keeps else ():
            scanner.remember(text, found[text] or ())
        return [found[text] or () for text in texts]

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
        pool, self._pool = self._pool, None
        if pool is None:
            return
        ending = asyncio.create_task(asyncio.to_thread(pool.shutdown, cancel_futures=True))
        await asyncio.wait([ending], timeout=_END_S)
        if not ending.done():
            _kill_processes()
        await ending

    async def _scan_apart(self, wanted: Wanted, texts: list[str]) -> list[tuple[Finding, ...]]:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._submit(wanted, texts)
        except TimeoutError:
            if (
                0 < self._answered_at < started
            ):  # it was ready, and has answered nobody since: it hangs for ever
                _kill_processes()
                self._pool = None
                self._submit(wanted, [])  # the next one makes itself ready
            raise GuardsAway(f"it took longer than {self._limit_s} s") from None
        except BrokenProcessPool:
            self._pool = None  # the next call begins another
            raise GuardsAway("its process ended") from None

    def _submit(self, wanted: Wanted, texts: list[str]) -> "asyncio.Future[list[tuple[Finding, ...]]]":
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._process(), scan_all, wanted, texts)
        except BrokenProcessPool:  # it has ended since; nothing of ours was in it
            self._pool = None
            future = loop.run_in_executor(self._process(), scan_all, wanted, texts)
        future.add_done_callback(self._note)
        return future

    def _note(self, future: "asyncio.Future[list[tuple[Finding, ...]]]") -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is None:
            self._answered_at = time.monotonic()
        else:
            logger.error("Texts could not be looked through: %r", error)

    def _process(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._answered_at = 0.0
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(_PROCESSES, mp_context=context, initializer=end_with_parent)
        return self._pool


def _kill_processes() -> None:
    """Those that look through texts: a worker has no other children of this kind."""
    for process in multiprocessing.active_children():
        process.kill()


def _make_scanner(wanted: Wanted) -> Scanner | None:
    """In a thread. None when it cannot be made: then no guard can look."""
    try:
        return Scanner(wanted)
    except Exception:
        logger.exception("What guards look for cannot be made ready.")
        return None
