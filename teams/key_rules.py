"""What a key may be restricted to: endpoints, models, addresses. Which forms are accepted, and how they are kept.

Each `normalise_...` returns the values as they are stored (each once, in a fixed order), or raises a
ValidationError that names what is wrong. An empty list restricts nothing.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MOST_RULES = 100  # of each kind; a worker looks at them one by one
_LONGEST_ADDRESS = 64  # 39 characters of IPv6 and a zone
_MAPPED_BITS = 96  # ::ffff:0:0/96 holds the IPv4 addresses

_MODEL_NAME = r"\A[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}\Z"
validate_model_name = RegexValidator(_MODEL_NAME, "Use letters, digits and . _ : / - (at most 128).")


class Endpoint(models.TextChoices):
    """What a key's scopes name: the operations under /v1."""

    CHAT = "chat", "Chat completions"
    COMPLETIONS = "completions", "Completions"
    EMBEDDINGS = "embeddings", "Embeddings"
    MODELS = "models", "List of models"
    RESPONSES = "responses", "Responses"
    MESSAGES = "messages", "Anthropic messages"


def normalise_scopes(values: Iterable[str]) -> list[str]:
    """The endpoints in `values`, in the order of `Endpoint`."""
    given = list(values)
    unknown = [f"{value!r} is not one of {', '.join(Endpoint)}." for value in given if value not in Endpoint]
    if unknown:
        raise ValidationError(unknown)
    return [endpoint.value for endpoint in Endpoint if endpoint in given]


def normalise_model_names(values: Iterable[str]) -> list[str]:
    """Names in the form of the catalogue's. Whether there is such a model is not asked: it may come later."""
    names = sorted({value.strip() for value in values})
    wrong = [name for name in names if not re.match(_MODEL_NAME, name)]
    if wrong:
        raise ValidationError([f"{name!r} cannot be a model's name." for name in wrong])
    _check_number(names)
    return names


def normalise_ip_ranges(values: Iterable[str]) -> list[str]:
    """Networks in CIDR form, IPv4 before IPv6. A single address becomes its /32 or /128."""
    networks: set[Network] = set()
    wrong = []
    for value in values:
        try:
            networks.add(parse_network(value))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValidationError(wrong)
    _check_number(networks)
    ordered = sorted(
        networks, key=lambda network: (network.version, network.network_address.packed, network.prefixlen)
    )
    return [str(network) for network in ordered]


def parse_network(text: str) -> Network:
    """The network that `text` names in CIDR form. Raises ValueError, with a message for people, when it is none,
    or when bits of hosts are set: 10.0.0.1/8 may mean one address or sixteen million."""
    text = text.strip()
    try:
        if "%" in text:
            raise ValueError("a zone has no meaning here")
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an address range such as 192.0.2.0/24 or 2001:db8::/32.") from None
    if ip_network(text.partition("/")[0]).network_address != network.network_address:
        raise ValueError(f"{text!r} has bits of hosts set; the whole range is {network}.")
    return _as_ipv4(network)


def parse_address(text: str) -> Address | None:
    """The address that `text` is, or None: without its zone, and as IPv4 if it is IPv4 written as IPv6."""
    return _parse_address(text) if len(text) <= _LONGEST_ADDRESS else None


@lru_cache(4096)
def _parse_address(text: str) -> Address | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _as_ipv4(network: Network) -> Network:
    """An IPv4 range written as IPv6 (::ffff:10.0.0.0/104) is the IPv4 range: so addresses are compared."""
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < _MAPPED_BITS:
        return network
    return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))


def _check_number(rules: "list[str] | set[Network]") -> None:
    if len(rules) > MOST_RULES:
        raise ValidationError(f"At most {MOST_RULES} are possible, not {len(rules)}.")


MOST_TAGS = 20
_TAG = re.compile(r"\A[a-z0-9][a-z0-9-]{0,31}\Z")


def normalise_tags(values: Iterable[str]) -> list[str]:
    """Names of what a backend may have and a caller may need, such as `eu` or `hipaa`."""
    tags = sorted({value.strip() for value in values})
    wrong = [
        f"{tag!r} is no tag: use a-z, 0-9 and hyphens, at most 32." for tag in tags if not _TAG.match(tag)
    ]
    if wrong:
        raise ValidationError(wrong)
    if len(tags) > MOST_TAGS:
        raise ValidationError(f"There may be at most {MOST_TAGS}.")
    return tags


def validate_tags(values: Iterable[str]) -> None:
    """Raises ValidationError for what is no list of tags."""
    normalise_tags(values)
