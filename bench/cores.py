"""Which core does what: the proxy under test has one for itself, everything else shares another."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """Numbers of cores; None where processes are not pinned."""

    proxy: int | None = None
    others: int | None = None

    @classmethod
    def choose(cls) -> "Cores":
        """The first two cores this process may use; none where there is one only, or no affinity (macOS)."""
        if not hasattr(os, "sched_getaffinity"):
            return cls()
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1]) if len(usable) > 1 else cls()

    def describe(self) -> str:
        """One clause for people."""
        if self.proxy is None:
            return "no process pinned to a core"
        return f"proxy on core {self.proxy}, everything else on core {self.others}"


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Run on `core` while inside. Processes started meanwhile stay there for good: they inherit it."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
