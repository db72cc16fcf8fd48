"""Clients of the providers' packages that a test opens and need not close.

One that is left to the garbage collector may be closed after its socket is: the warning of the socket then
fails whichever test happens to run at that moment.
"""

from typing import Protocol, TypeVar


class Closes(Protocol):
    def close(self) -> None: ...


Client = TypeVar("Client", bound=Closes)
_OPEN: list[Closes] = []


def kept(client: Client) -> Client:
    """It is closed when the test ends."""
    _OPEN.append(client)
    return client


def close_clients() -> None:
    while _OPEN:
        _OPEN.pop().close()
