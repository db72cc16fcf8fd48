"""Where scanning happens: short texts at once, long ones in a process of their own, so that other calls do not wait."""

import asyncio
import logging
from collections.abc import Sequence

from guards.apart import scan_all
from guards.book import NO_GUARDS, GuardBook
from guards.finding import Finding
from guards.process import Apart, GuardsAway
from guards.scanner import Scanner, Wanted

logger = logging.getLogger(__name__)

_AT_ONCE = 4_000  # by Scanner.weight
# Characters of one call, so that none keeps the process from others: names take 12 ms for a thousand.
_MOST, _MOST_WITH_NAMES = 2_000_000, 200_000


class Runner:
    """One worker's. Its process begins with the first policy."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._apart = Apart(limit_s)
        self._making: asyncio.Future[Scanner | None] | None = None  # of the scanner for the policies in force
        self.book: GuardBook = NO_GUARDS

    def take(self, book: GuardBook) -> None:
        """The policies from now on. What they look for is made ready meanwhile, here and in the process."""
        wanted, before, self.book = book.wanted, self.book.wanted, book
        if wanted != before:
            self._making = None
            if wanted.types:
                self._making = asyncio.get_running_loop().run_in_executor(None, _make_scanner, wanted)
                self._apart.begin(scan_all, wanted, [])

    async def scan(self, texts: Sequence[str], *, keeps: bool = True) -> list[Sequence[Finding]]:
        """What is in each text; `keeps` in mind what is in it, should it come again. Raises GuardsAway."""
        scanner = await self._ready()
        found = {text: scanner.known(text) for text in texts}
        new = [text for text, known in found.items() if known is None]
        if (length := sum(map(len, new))) > (_MOST_WITH_NAMES if scanner.wanted.has_names else _MOST):
            raise GuardsAway(f"{length:,} characters are too many to look through")
        if length > _AT_ONCE or sum(map(scanner.weight, new)) > _AT_ONCE:
            found |= zip(new, await self._scan_apart(scanner.wanted, new), strict=True)
        else:
            found |= {text: scanner.look(text) for text in new}
        for text in new if keeps else ():
            scanner.remember(text, found[text] or ())
        return [found[text] or () for text in texts]

    async def close(self) -> None:
        """End the process."""
        await self._apart.close()

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

    async def _scan_apart(self, wanted: Wanted, texts: list[str]) -> list[tuple[Finding, ...]]:
        try:
            return await self._apart.run(scan_all, wanted, texts)
        except GuardsAway:
            self._apart.begin(scan_all, wanted, [])  # where it was replaced, the next one makes itself ready
            raise


def _make_scanner(wanted: Wanted) -> Scanner | None:
    """In a thread. None when it cannot be made: then no guard can look."""
    try:
        return Scanner(wanted)
    except Exception:
        logger.exception("What guards look for cannot be made ready.")
        return None
