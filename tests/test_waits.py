"""When a backend says that it takes calls again, in the forms of the providers."""

from datetime import UTC, datetime

import pytest

from routing.providers.waits import read_back_in_s

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-26T12:00:20Z",
                "anthropic-ratelimit-tokens-remaining": "5",
                "anthropic-ratelimit-tokens-reset": "2026-11-26T13:00:00Z",
            },
            20,
        ),
        ({"anthropic-ratelimit-tokens-reset": "2026-11-26T11:00:00+00:00"}, 0),
        ({"anthropic-ratelimit-tokens-reset": "soon"}, None),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "Thu, 26 Nov 2026 12:01:00 GMT"}, 60),
        ({"retry-after": "Thu, 26 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:00 +99999999999999"}, None),
        ({"retry-after": "Mon, 01 Jan 20240000000000000000 00:00:00 GMT"}, None),
        ({"retry-after": "\xe9"}, None),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "20ms", "x-ratelimit-reset-tokens": "1m1.5s"}, 61.5),
        ({"x-ratelimit-reset-tokens": "30"}, 30),
        ({"x-ratelimit-reset-tokens": "1h", "x-ratelimit-remaining-tokens": "99"}, None),
        ({"x-ratelimit-reset-tokens": "1x"}, None),
    ],
)
def test_the_wait(headers: dict[str, str], seconds: float | None) -> None:
    raw = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    assert read_back_in_s(raw, NOW) == seconds
