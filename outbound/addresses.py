"""Which addresses the gateway may call: checked when a backend is saved and again at every connection.

Link-local, multicast and cloud-metadata addresses are never called. Plain http, loopback and private ranges
only for the host:port pairs that the operator lists in GATEWAY_PRIVATE_BACKENDS.
"""

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from django.conf import settings

METADATA_HOSTS = frozenset(
    {"metadata.google.internal", "metadata.goog", "instance-data", "metadata.azure.internal"}
)
METADATA_ADDRESSES = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
        ),
    )
)


_COMPATIBLE = IPv6Network("::/96")
# NAT64 by the well-known prefix and by a network's own, and SIIT.
_EMBEDDING = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"), IPv6Network("::ffff:0:0:0/96"))


class ForbiddenAddress(OSError):
    """The gateway does not call this address; the message says why, without a resolved address in it."""


def check_base_url(base_url: str, *, private: Collection[str] | None = None) -> None:
    """Refuse a base URL that may never be called, before any name is resolved.

    `private` holds the allowed host:port pairs (default: the setting). Raises ForbiddenAddress.
    """
    try:
        url = urlsplit(base_url)
        host, port = url.hostname, url.port or {"https": 443, "http": 80}.get(url.scheme)
    except ValueError:
        raise ForbiddenAddress("This is not a valid URL.") from None
    if url.scheme not in {"https", "http"} or not host or port is None:
        raise ForbiddenAddress("Give an https:// address with a host.")
    if url.username is not None or url.password is not None or url.query or url.fragment:
        raise ForbiddenAddress("The address must not hold a user, password, query or fragment.")
    if host.lower().rstrip(".") in METADATA_HOSTS:
        raise ForbiddenAddress("Metadata services are never called.")
    allowed = is_private_allowed(host, port, private)
    if url.scheme == "http" and not allowed:
        raise ForbiddenAddress(f"Plain http needs {host}:{port} in GATEWAY_PRIVATE_BACKENDS.")
    if (address := _literal(host)) is not None:
        check_address(address, private_allowed=allowed)
    elif host.lower() == "localhost" and not allowed:
        raise ForbiddenAddress(f"Loopback needs {host}:{port} in GATEWAY_PRIVATE_BACKENDS.")


def is_private_allowed(host: str, port: int, private: Collection[str] | None = None) -> bool:
    """Whether the operator listed this host and port."""
    return f"{host}:{port}" in (settings.GATEWAY_PRIVATE_BACKENDS if private is None else private)


def check_address(address: IPv4Address | IPv6Address, *, private_allowed: bool) -> None:
    """Refuse a resolved address. Raises ForbiddenAddress."""
    if isinstance(address, IPv6Address) and (embedded := _embedded_ipv4(address)) is not None:
        address = embedded
    if (
        address in METADATA_ADDRESSES
        or address.is_link_local
        or (isinstance(address, IPv6Address) and address.is_site_local)
        or address.is_multicast
        or address.is_unspecified
    ):
        raise ForbiddenAddress("Link-local, multicast and metadata addresses are never called.")
    if not address.is_global and not private_allowed:
        raise ForbiddenAddress("Loopback and private addresses need an entry in GATEWAY_PRIVATE_BACKENDS.")


def _embedded_ipv4(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a form of IPv6 stands for: mapped, 6to4, compatible (but :: and ::1),
    Teredo, NAT64 and SIIT."""
    if found := address.ipv4_mapped or address.sixtofour:
        return found
    if address.teredo is not None:
        return address.teredo[1]
    is_compatible = address in _COMPATIBLE and int(address) > 1
    embeds = is_compatible or any(address in network for network in _EMBEDDING)
    return IPv4Address(int(address) & 0xFFFFFFFF) if embeds else None


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` spells, also in the short forms that the resolver would accept (127.1, 0x7f1)."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ip_address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
