"""Whose address counts: nobody can claim one but through a proxy that we trust."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway_site.checks import check_trusted_proxies
from routing.client_address import TrustedProxies, parse_forwarded
from teams.key_rules import parse_address, parse_network

PROXIES = TrustedProxies((parse_network("10.0.0.0/8"), parse_network("fd00::/8")))


def scope_of(peer: str | None, *lines: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    return {
        "client": None if peer is None else (peer, 1234),
        "headers": [(b"host", b"x"), *headers, (b"x-real-ip", b"192.0.2.99")],
    }


CASES: list[tuple[str, str | None, list[str], str]] = [
    ("nobody forwards", "10.0.0.1", [], "10.0.0.1"),
    ("one proxy", "10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
    ("two proxies", "10.0.0.1", ["192.0.2.7, 10.0.0.2"], "192.0.2.7"),
    ("each proxy adds a line", "10.0.0.1", ["192.0.2.7", "10.0.0.2"], "192.0.2.7"),
    ("the caller adds one in front", "10.0.0.1", ["198.51.100.1, 192.0.2.7"], "192.0.2.7"),
    ("the caller adds a line in front", "10.0.0.1", ["198.51.100.1", "192.0.2.7"], "192.0.2.7"),
    ("the caller claims to be a proxy", "10.0.0.1", ["10.9.9.9, 192.0.2.7"], "192.0.2.7"),
    ("a caller without a proxy", "192.0.2.7", ["10.0.0.1"], "192.0.2.7"),
    ("a caller inside", "10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
    ("with a port", "10.0.0.1", ["192.0.2.7:50123"], "192.0.2.7"),
    ("IPv6", "fd00::1", ["2001:db8::7"], "2001:db8::7"),
    ("IPv6 with a port", "fd00::1", ["[2001:db8::7]:443"], "2001:db8::7"),
    ("IPv4 written as IPv6", "::ffff:10.0.0.1", ["::ffff:192.0.2.7"], "192.0.2.7"),
    ("a proxy hides its caller", "10.0.0.1", ["unknown"], "10.0.0.1"),
    ("nonsense behind a proxy", "10.0.0.1", ["192.0.2.7, , 10.0.0.2"], "10.0.0.2"),
    ("an endless entry", "10.0.0.1", ["192.0.2.7%" + "x" * 60_000], "10.0.0.1"),
    ("no address at all", None, ["192.0.2.7"], ""),
]


@pytest.mark.parametrize(("peer", "lines", "caller"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_the_callers_address(peer: str | None, lines: list[str], caller: str) -> None:
    assert PROXIES.address_of(scope_of(peer, *lines)) == caller


def test_without_trusted_proxies_the_connection_counts() -> None:
    assert TrustedProxies().address_of(scope_of("10.0.0.1", "192.0.2.7")) == "10.0.0.1"


inside = st.one_of(st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="fd00::/8")).map(str)
outside = st.ip_addresses().filter(lambda address: not PROXIES._trusts(parse_address(str(address)))).map(str)
header_text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=40)
claims = st.lists(st.one_of(inside, outside, header_text), max_size=5)


@given(claimed=claims, caller=outside, proxies=st.lists(inside, min_size=1, max_size=4))
def test_no_claim_hides_a_caller_behind_trusted_proxies(
    claimed: list[str], caller: str, proxies: list[str]
) -> None:
    *passed_on, peer = proxies
    lines = [*claimed, caller, *passed_on]
    expected = str(parse_address(caller))
    assert PROXIES.address_of(scope_of(peer, ", ".join(lines))) == expected
    assert PROXIES.address_of(scope_of(peer, *lines)) == expected


@given(claimed=claims, caller=outside)
def test_a_caller_who_is_no_proxy_claims_nothing(claimed: list[str], caller: str) -> None:
    assert PROXIES.address_of(scope_of(caller, *claimed)) == caller


@given(lines=st.lists(header_text, max_size=5), peer=inside)
def test_whatever_is_sent_gives_an_address(lines: list[str], peer: str) -> None:
    assert parse_address(PROXIES.address_of(scope_of(peer, *lines))) is not None


@given(text=st.text(max_size=60))
def test_no_text_breaks_the_reading_of_an_entry(text: str) -> None:
    address = parse_forwarded(text)
    assert address is None or parse_forwarded(str(address)) == address


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ((), []),
        (("10.0.0.0/8", "2001:db8::/32", "192.0.2.1"), []),
        (("10.0.0.1/8", "proxy.example.com"), ["gateway_site.E010", "gateway_site.E010"]),
        (("0.0.0.0/0",), ["gateway_site.W010"]),
        (("::/0", "nonsense"), ["gateway_site.W010", "gateway_site.E010"]),
    ],
)
def test_a_wrong_setting_is_found_at_start(entries: tuple[str, ...], found: list[str]) -> None:
    from django.test import override_settings

    with override_settings(GATEWAY_TRUSTED_PROXIES=entries):
        assert [message.id for message in check_trusted_proxies(None)] == found
