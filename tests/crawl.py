"""Walks through a product's pages and error answers as an administrator, and keeps them for the secret scan."""

import os
import re
import time
from collections import Counter, deque
from pathlib import Path

import httpx

from tests.processes import Product

_LINK = re.compile(r'href="(/[^"#]*)"')
_NOT_FOLLOWED = re.compile(r"^/(static|sign-out|admin/logout|admin/jsi18n)")
_MOST_PAGES = 150
_MOST_SECONDS = 6.0
_OF_ONE_KIND = 2


def crawl(product: Product, folder: Path) -> int:
    """Save what an administrator can see, and what strangers and callers are answered; returns how many answers."""
    from tests.people import make_admin

    folder.mkdir(parents=True, exist_ok=True)
    account = make_admin()
    with httpx.Client(base_url=product.url, follow_redirects=True) as visitor:
        visitor.get("/sign-in/")
        form = {"username": account.username, "password": account.password}
        token = {"csrfmiddlewaretoken": visitor.cookies["csrftoken"]}
        visitor.post("/sign-in/", data={**form, **token}, headers={"Origin": product.url})
        answers = [*_walk(visitor), *_errors(product)]
    for number, answer in enumerate(answers):
        name = re.sub(r"\W+", "-", answer.url.path).strip("-")[:80]
        (folder / f"{number:03}-{answer.status_code}-{name}.html").write_bytes(
            repr(answer.headers).encode() + answer.content
        )
    return len(answers)


def _walk(visitor: httpx.Client) -> list[httpx.Response]:
    """Breadth first from the entries; of pages that differ in numbers only, two."""
    waiting, seen = deque(["/", "/admin/", "/status/"]), {"/", "/admin/", "/status/"}
    kinds: Counter[str] = Counter()
    pages: list[httpx.Response] = []
    ends = time.monotonic() + _MOST_SECONDS
    while waiting and len(pages) < _MOST_PAGES and time.monotonic() < ends:
        path = waiting.popleft()
        kind = re.sub(r"\d+|[0-9a-f-]{36}", "N", path.partition("?")[0])
        kinds[kind] += 1
        if kinds[kind] > _OF_ONE_KIND:
            continue
        pages.append(visitor.get(path))
        for link in _LINK.findall(pages[-1].text):
            link = link.replace("&amp;", "&")
            if link not in seen and not _NOT_FOLLOWED.match(link):
                seen.add(link)
                waiting.append(link)
    return pages


def _errors(product: Product) -> list[httpx.Response]:
    """Answers of every kind to callers, with a key that nobody has, which none of them may repeat."""
    from teams.keys import generate_key

    bearer = {"authorization": f"Bearer {generate_key()}"}
    metrics = {"authorization": f"Bearer {os.environ['GATEWAY_METRICS_TOKEN']}"}
    with httpx.Client(base_url=product.url) as caller:
        return [
            caller.get("/readyz"),
            caller.get("/metrics"),
            caller.get("/metrics", headers=metrics),
            caller.get("/metrics", headers=bearer),
            caller.get("/v1/models", headers=bearer),
            caller.post("/v1/chat/completions", headers=bearer, content=b"{"),
            caller.delete("/v1/models", headers=bearer),
            caller.get("/v1/nothing", headers=bearer),
            caller.get("/nothing", headers=bearer),
        ]
