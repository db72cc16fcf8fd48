"""The routes that call a backend, as tables for tests that hold on every one of them."""

from dataclasses import dataclass
from typing import Any

import httpx

from tests.factories import Caller
from tests.processes import Product


@dataclass(frozen=True, eq=False)
class Route:
    """One route. `content` asks it about three words; `estimated_tokens` is our own count of that prompt."""

    name: str
    path: str
    content: dict[str, Any]
    estimated_tokens: int
    streams: bool = True

    def url(self, product: Product, model: str) -> str:
        """Where a request for `model` goes."""
        return product.url + self.path.format(model=model)

    def ask(
        self, product: Product, caller: Caller, *, headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """One call with the caller's key and model, and whatever else is said."""
        return httpx.post(
            self.url(product, str(fields.get("model", caller.model))),
            headers={"Authorization": f"Bearer {caller.secret}", **(headers or {})},
            json={"model": caller.model, **self.content, **fields},
            timeout=20,
        )


_HELLO = [{"role": "user", "content": "one two three"}]
CHAT = Route("chat", "/v1/chat/completions", {"messages": _HELLO}, 1 + 3 + 3 + 3)
COMPLETIONS = Route("completions", "/v1/completions", {"prompt": "one two three"}, 3)
EMBEDDINGS = Route("embeddings", "/v1/embeddings", {"input": "one two three"}, 3, streams=False)
AZURE_CHAT = Route(
    "azure chat",
    "/openai/deployments/{model}/chat/completions?api-version=2024-10-21",
    CHAT.content,
    CHAT.estimated_tokens,
)
OPENAI_V1_CHAT = Route("openai/v1 chat", "/openai/v1/chat/completions", CHAT.content, CHAT.estimated_tokens)
ROUTES = (CHAT, COMPLETIONS, EMBEDDINGS)
EVERY_FORM = (*ROUTES, AZURE_CHAT, OPENAI_V1_CHAT)
WAYS = [(route, stream) for route in ROUTES for stream in (False, True) if route.streams or not stream]
