"""How many passwords may be tried: for one user name and from one address, counted by django-ratelimit.

Every attempt counts before its password is looked at, so attempts at once get no further than attempts in turn.
An unknown name is counted like a known one: the answer tells nobody whether an account exists.
"""

import unicodedata
from ipaddress import IPv6Address, ip_network

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest
from django_ratelimit.core import get_usage

from audit.services import record_event, record_incident
from routing.client_address import TrustedProxies
from teams.key_rules import parse_address, parse_network

ACTOR = "sign-in"
ACTION = "sign_in.limit"
_SUBSCRIBER_BITS = 64


def count_attempt(request: HttpRequest, username: str) -> int | None:
    """Count one attempt. Returns None when it may go on, else for how many seconds nobody may try.

    The first refusal of a window is recorded as an event. An address at its limit costs names nothing, so
    from one place only so many accounts can be closed to their owners.
    """
    name = unicodedata.normalize("NFKC", username.replace("\0", "").strip())[:254]
    network = _network_of(address_of(request))
    if (wait_s := _count(request, network, "address", settings.GATEWAY_SIGN_IN_PER_ADDRESS)) is not None:
        return wait_s
    return _count(request, name.casefold(), "name", settings.GATEWAY_SIGN_IN_PER_NAME)


def address_of(request: HttpRequest) -> str:
    """Where a request comes from, behind the proxies we trust; empty when the connection has no address."""
    proxies = TrustedProxies(tuple(map(parse_network, settings.GATEWAY_TRUSTED_PROXIES)))
    forwarded = request.META.get("HTTP_X_FORWARDED_FOR", "").encode("latin-1", "replace")
    peer = request.META.get("REMOTE_ADDR", "")
    return proxies.address_of({"client": (peer, 0), "headers": [(b"x-forwarded-for", forwarded)]})


def _network_of(address: str) -> str:
    """What counts as one address: an IPv6 subscriber has a whole /64 to choose from."""
    parsed = parse_address(address)
    if isinstance(parsed, IPv6Address):
        return str(ip_network((parsed, _SUBSCRIBER_BITS), strict=False))
    return str(parsed or "unknown")


def _count(request: HttpRequest, whom: str, kind: str, rate: tuple[int, int]) -> int | None:
    usage = get_usage(request, group=f"sign-in by {kind}", key=lambda *_: whom, rate=rate, increment=True)
    if usage is None or not usage["should_limit"]:
        return None
    if usage["count"] == rate[0] + 1:
        _record(request, whom, kind, rate)
    return max(1, int(usage["time_left"]))


def _record(request: HttpRequest, whom: str, kind: str, rate: tuple[int, int]) -> None:
    """A name without an account is not written down: people enter their password there by mistake."""
    after = {"limit": f"{kind}: {rate[0]} in {rate[1]} s", "address": address_of(request)}
    user = User.objects.filter(username__iexact=whom).first() if kind == "name" else None
    if user is not None:
        record_event(ACTOR, ACTION, user, after=after)
        return
    label = whom if kind == "address" else "a user name without an account"
    record_incident(ACTOR, ACTION, kind, label, after=after)
