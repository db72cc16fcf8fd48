"""Whose call it is, by address: the socket's peer, or whom proxies that we trust say they speak for."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from teams.key_rules import Address, Network, parse_address

_FORWARDED = b"x-forwarded-for"


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The networks whose X-Forwarded-For is believed; nobody else's is."""

    networks: tuple[Network, ...] = ()

    def address_of(self, scope: Mapping[str, Any]) -> str:
        """The caller's address for an ASGI scope; empty when the connection has none."""
        peer: str = scope["client"][0] if scope.get("client") else ""
        if not self.networks or not self._trusts(parse_address(peer)):
            return peer
        lines = [value.decode("latin-1") for name, value in scope["headers"] if name == _FORWARDED]
        return self.find_caller(peer, ",".join(lines).split(","))

    def find_caller(self, peer: str, forwarded: Iterable[str]) -> str:
        """The nearest address that is no trusted proxy's, walking from the peer to the left of `forwarded`.

        What stands further left was written by whoever that is, and says nothing. An entry that is no address
        ends the walk at the proxy that passed it on.
        """
        caller = peer
        for entry in reversed(list(forwarded)):
            if (address := parse_forwarded(entry)) is None:
                break
            caller = str(address)
            if not self._trusts(address):
                break
        return caller

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self.networks)


def parse_forwarded(entry: str) -> Address | None:
    """The address in an entry of X-Forwarded-For; some proxies add a port, and brackets around IPv6."""
    entry = entry.strip()
    if entry.startswith("["):
        entry = entry[1:].partition("]")[0]
    elif entry.count(":") == 1:
        entry = entry.partition(":")[0]
    return parse_address(entry)
