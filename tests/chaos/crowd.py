"""The callers: so many requests a second, plain and streamed, some of which leave; and what became of each."""

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

_STREAMS = 0.4  # shares of all calls
_LEAVE = 0.05
_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Spender:
    """A caller: its key and model, and its share of the crowd."""

    secret: str
    model: str
    weight: float
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """One request: when it ended (seconds of the monotonic clock), at which gateway, and how."""

    at: float
    worker: str
    how: str  # "200", "left", "cut", "<status> <reason>", or "no answer"


class Crowd:
    """Calls until it is stopped, in a thread of its own; every call is begun on time, whatever became of others."""

    def __init__(
        self, urls: Mapping[str, str], spenders: list[Spender], per_second: float, seed: int
    ) -> None:
        self._urls = dict(urls)
        self._spenders = spenders
        self._per_second = per_second
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.ended: list[Ended] = []
        self.begun = 0

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def outcomes(self) -> Counter[str]:
        """How many ended how."""
        return Counter(one.how for one in self.ended)

    def recovery_s(self, moment: float, healthy: frozenset[str]) -> float | None:
        """How long after `moment` the last unhealthy answer came; None until each gateway has served, and none
        has failed, for a second."""
        now = time.monotonic()
        later = [one for one in self.ended if one.at > moment]
        last_failure = max((one.at for one in later if one.how not in healthy), default=moment)
        serving = {one.worker for one in later if one.how == "200" and one.at > max(last_failure, now - 1)}
        if serving != self._urls.keys() or now - last_failure < 1:
            return None
        return last_failure - moment

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=200)
        calls: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(timeout=_PATIENCE_S, limits=limits) as client:
            due = time.monotonic()
            while not self._stop.is_set():
                due += self._random.expovariate(self._per_second)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self._call(client))
                calls.add(task)
                task.add_done_callback(calls.discard)
                self.begun += 1
            if calls:
                await asyncio.wait(calls)

    async def _call(self, client: httpx.AsyncClient) -> None:
        worker, url = self._random.choice(list(self._urls.items()))
        (spender,) = self._random.choices(self._spenders, [one.weight for one in self._spenders])
        try:
            how = await self._ask(client, url, spender)
        except httpx.HTTPError as error:
            how = "late" if isinstance(error, httpx.TimeoutException) else "no answer"
        self.ended.append(Ended(time.monotonic(), worker, how))

    async def _ask(self, client: httpx.AsyncClient, url: str, spender: Spender) -> str:
        stream = self._random.random() < _STREAMS
        leaves = stream and self._random.random() < _LEAVE / _STREAMS
        simulator = {"first_byte_s": 0.02, "output_tokens": self._random.randint(1, 30)}
        if stream:
            simulator["between_chunks_s"] = 0.005
        body = {
            "model": spender.model,
            "messages": [{"role": "user", "content": "one two three " * self._random.randint(1, 20)}],
            "max_tokens": 30,
            "stream": stream,
            "user": f"user-{self._random.randint(1, 5)}",
            "simulator": simulator,
            **spender.fields,
        }
        headers = {"Authorization": f"Bearer {spender.secret}", "Content-Type": "application/json"}
        content = json.dumps(body)  # which writes a lone surrogate as the escape that a hostile caller would
        async with client.stream(
            "POST", f"{url}/v1/chat/completions", content=content, headers=headers
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return f"{answer.status_code} {answer.headers.get('x-gateway-reason', '')}"
            last = b""
            async for piece in answer.aiter_bytes():
                last = piece
                if leaves:
                    return "left"
            return "200" if not stream or last.rstrip().endswith(b"data: [DONE]") else "cut"
