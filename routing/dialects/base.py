"""What the pipeline asks of an exchange: one request put to one backend, and its answer given to the caller."""

from typing import Protocol

from billing.usage import Usage
from teams.errors import GatewayError


class Answer(Protocol):
    """A backend's plain answer, read. `usage`: its figures, None when missing or impossible."""

    usage: Usage | None

    def texts(self) -> list[str]:
        """What the model said, for our own count of it."""
        ...

    def body(self, usage: Usage) -> bytes:
        """The answer in the caller's form; `usage` is what is charged for it."""
        ...


class Relay(Protocol):
    """A backend's stream on its way to the caller, without any input or output of its own.

    `feed` what arrives, send what it returns. After `is_done` the backend has ended the stream properly; the last
    frames are left to the caller of the relay, who settles first. After `is_faulty` it sent an error, or what is no
    stream: what came before was passed, nothing after it will be. `usage`: the backend's figures so far;
    `is_usage_final`: they cover the whole stream.
    """

    is_done: bool
    is_faulty: bool
    usage: Usage | None
    is_usage_final: bool

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will be passed."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Whole frames to pass on now, maybe none."""
        ...

    def end(self) -> bytes:
        """The backend closed its side: what is left of a last frame that lacks its blank line, if anything."""
        ...

    def texts(self) -> list[str]:
        """The texts of all that was passed so far, in their order."""
        ...

    def closing(self, usage: Usage) -> bytes:
        """The last frames of a stream that ended well; `usage` is what is charged for it."""
        ...

    def failing(self, error: GatewayError) -> bytes:
        """The last frame of a stream that failed."""
        ...


class Exchange(Protocol):
    """One request as it is put to a backend of one form. `path`: its place below the backend's base URL."""

    path: str

    def body(self, upstream_model: str) -> bytes:
        """What is sent: with the backend's name of the model, and usage asked for."""
        ...

    def read(self, answer: bytes) -> Answer:
        """A plain answer. Raises ValueError when it is none."""
        ...

    def relay(self) -> Relay:
        """For its stream."""
        ...
