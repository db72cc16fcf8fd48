"""The log of what the simulator truly served, for tests to compare with what the gateway recorded."""

import asyncio
from collections import Counter, deque
from itertools import islice
from typing import Any, Literal, get_args

import msgspec

KEPT_CALLS = 100_000

Outcome = Literal["complete", "client_left", "broken", "failed"]
TOTALS = ("prompt_tokens", "completion_tokens", "cached_tokens", *get_args(Outcome))


class ServedCall(msgspec.Struct):
    """One POST under /v1/.

    Tokens are what was produced, whatever the client was told: none before the status line; of a stream that
    did not end, the prompt's and those in the frames sent. `status` is None if no status line was sent.
    """

    path: str
    request_id: str | None
    id: int = -1
    model: str | None = None
    stream: bool = False
    status: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    outcome: Outcome = "broken"
    frames_sent: int = 0
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    body: str | msgspec.UnsetType = msgspec.UNSET


class ServedLog:
    """Finished calls in order of their end, the last 100,000 of them; count and totals go on."""

    def __init__(self) -> None:
        self._calls: deque[ServedCall] = deque(maxlen=KEPT_CALLS)
        self._totals: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self.count = 0
        self.open = 0

    def add(self, call: ServedCall) -> None:
        """Number a finished call and keep it."""
        call.id = self.count
        self.count += 1
        self._calls.append(call)
        self._totals[call.outcome] += 1
        self._totals["prompt_tokens"] += call.prompt_tokens
        self._totals["completion_tokens"] += call.completion_tokens
        self._totals["cached_tokens"] += call.cached_tokens
        self._changed.set()

    def clear(self) -> None:
        """Forget everything, count and totals too."""
        self._calls.clear()
        self._totals.clear()
        self.count = 0

    async def wait_for(self, count: int, timeout_s: float) -> None:
        """Wait until so many calls have ended, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.count < count:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return

    def report(self, since: int = 0, request_id: str | None = None) -> dict[str, Any]:
        """The calls from id `since` on, of one request id if given, beside count and totals of all."""
        skipped = max(0, since - (self.count - len(self._calls)))
        newer = islice(self._calls, skipped, None)
        calls = [call for call in newer if request_id is None or call.request_id == request_id]
        totals = {name: self._totals[name] for name in TOTALS}
        return {"count": self.count, "open": self.open, "calls": calls, "totals": totals}
