"""A process of a worker's own for what must not hold up its event loop: bounded in time, replaced when it hangs."""

import asyncio
import logging
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import TypeVar, TypeVarTuple

from guards.apart import end_with_parent

logger = logging.getLogger(__name__)

_END_S = 2.0  # that the process has to end by itself
T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class GuardsAway(Exception):
    """The texts could not be looked through, or not in time."""


class Apart:
    """One process, which begins with the first thing to do. `limit_s`: for each of them."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._pool: ProcessPoolExecutor | None = None
        self._before: set[BaseProcess] = set()  # children of others
        self._children: list[BaseProcess] = []
        self._answered_at = 0.0  # when the process last did, by the monotonic clock; 0 before it is ready

    async def run(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> T:
        """What the function returns. Raises GuardsAway when the process ends meanwhile, or takes too long."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.limit_s):
                return await self.begin(function, *arguments)
        except TimeoutError:
            if (
                0 < self._answered_at < started
            ):  # it was ready, and has answered nobody since: it hangs for ever
                self._kill()
                self._pool = None
            raise GuardsAway(f"it took longer than {self.limit_s} s") from None
        except BrokenProcessPool:
            self._pool = None  # the next call begins another
            raise GuardsAway("its process ended") from None

    def begin(self, function: Callable[[*Arguments], T], *arguments: *Arguments) -> "asyncio.Future[T]":
        """The same, for whoever need not wait for it."""
        loop = asyncio.get_running_loop()
        try:
            future = loop.run_in_executor(self._process(), function, *arguments)
        except BrokenProcessPool:  # it has ended since; nothing of ours was in it
            self._pool = None
            future = loop.run_in_executor(self._process(), function, *arguments)
        self._note_children()
        future.add_done_callback(self._note)
        return future

    async def close(self) -> None:
        """End the process, and wait until what it shares with us is given back."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        ending = asyncio.create_task(asyncio.to_thread(pool.shutdown, cancel_futures=True))
        await asyncio.wait([ending], timeout=_END_S)
        if not ending.done():
            self._kill()
        await ending

    def _process(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._answered_at = 0.0
            self._before, self._children = set(multiprocessing.active_children()), []
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent)
        return self._pool

    def _note_children(self) -> None:
        """The process begins when something is first submitted, and nobody begins another meanwhile."""
        if not self._children:
            self._children = [
                child for child in multiprocessing.active_children() if child not in self._before
            ]

    def _note(self, future: "asyncio.Future[T]") -> None:
        if future.cancelled():
            return
        if (error := future.exception()) is None:
            self._answered_at = time.monotonic()
        else:
            logger.error("A guard's process failed: %r", error)

    def _kill(self) -> None:
        for child in self._children:
            child.kill()
