"""What a cluster says of itself: which server has which slot, and where a command is to be sent instead."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from redis.crc import key_slot

from billing.admission.commands import plain

SLOTS = plain("CLUSTER", "SLOTS", key=b"")
ASKING = plain("ASKING", key=b"")
_UNIX_ONLY = {"db"}  # of the query of a URL


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a server of a cluster listens, as the cluster tells its clients."""

    host: str
    port: int


class SlotMap:
    """The primary of each of the 16,384 slots, where there is one."""

    def __init__(self, primaries: Iterable[tuple[int, int, Address]] = ()) -> None:
        """`primaries`: first slot, last slot, and who has them."""
        self._of_slot: dict[int, Address] = {}
        for first, last, address in primaries:
            self._of_slot.update(dict.fromkeys(range(first, last + 1), address))

    def of(self, key: bytes) -> Address | None:
        """The primary that has `key`; any for no key."""
        if not key:
            return next(iter(self._of_slot.values()), None)
        return self._of_slot.get(key_slot(key))

    def move(self, slot: int, address: Address) -> None:
        """It was said that `address` has `slot` now."""
        self._of_slot[slot] = address

    @property
    def addresses(self) -> set[Address]:
        """Every primary that has a slot."""
        return set(self._of_slot.values())


def read_slots(reply: Any, asked: str) -> SlotMap:
    """The reply to CLUSTER SLOTS; a server that does not know its own name is at `asked`, the host that was asked."""
    return SlotMap(
        (first, last, Address(_text(primary[0]) or asked, primary[1])) for first, last, primary, *_ in reply
    )


class Turn(Enum):
    """Why a cluster did not carry a command out."""

    MOVED = auto()  # its slot is at another server
    ASK = auto()  # its slot is on the way there, and this key has arrived or was never here
    LATER = auto()  # its slot is being moved, or nobody has it


@dataclass(frozen=True, slots=True)
class Redirect:
    """A command was not carried out. `address`: who may do so, except for LATER."""

    turn: Turn
    slot: int = -1
    address: Address | None = None


_LATER = ("TRYAGAIN", "CLUSTERDOWN")
# A script that reads a key of a slot on the move finds it gone. It has written nothing: all scripts read first.
_LATER_IN_SCRIPT = ("access a non local key", "the cluster is down")


def read_redirect(error: str, asked: str) -> Redirect | None:
    """What an error of the store means for the place of a command; None when it is about something else."""
    word, _, rest = error.partition(" ")
    if word in ("MOVED", "ASK"):
        slot, _, place = rest.partition(" ")
        host, _, port = place.split(" ")[0].rpartition(":")
        return Redirect(Turn[word], int(slot), Address(host if host not in ("", "?") else asked, int(port)))
    if word in _LATER or any(said in error for said in _LATER_IN_SCRIPT):
        return Redirect(Turn.LATER)
    return None


def url_at(url: str, address: Address) -> str:
    """The URL of another server of the cluster that `url` leads to, with the same user, password and TLS."""
    parts = urlsplit(url)
    host = f"[{address.host}]" if ":" in address.host else address.host
    user, has_user, _ = parts.netloc.rpartition("@")
    if parts.scheme != "unix":
        return parts._replace(netloc=f"{user}{has_user}{host}:{address.port}").geturl()
    query = [(name, value) for name, value in parse_qsl(parts.query) if name not in _UNIX_ONLY]
    return parts._replace(
        scheme="redis",
        netloc=f"{user}{has_user}{quote(host, safe='[]:')}:{address.port}",
        path="",
        query=urlencode(query),
    ).geturl()


def host_of(url: str) -> str:
    """The host a URL names; that of a unix socket is this one."""
    return urlsplit(url).hostname or "127.0.0.1"


def _text(value: bytes | None) -> str:
    text = (value or b"").decode()
    return "" if text == "?" else text
