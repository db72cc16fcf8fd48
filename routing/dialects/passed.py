"""Caller and backend speak the same form: what one says is passed to the other as it came."""

from billing.usage import Usage
from routing.dialects.base import Relay
from routing.dialects.readers import Reader
from routing.dialects.translated import TranslatedRelay
from routing.dialects.writers import Writer
from routing.endpoints.base import Request


class Passed:
    """See base.Exchange."""

    __slots__ = ("_request", "_request_id", "path")

    def __init__(self, request: Request, request_id: str) -> None:
        self._request, self._request_id = request, request_id
        self.path = request.endpoint.path

    def body(self, upstream_model: str) -> bytes:
        """See base.Exchange."""
        return self._request.endpoint.body_for(self._request, upstream_model)

    def read(self, answer: bytes) -> "PassedAnswer":
        """See base.Exchange."""
        return PassedAnswer(self._request, answer)

    def relay(self) -> Relay:
        """See base.Exchange."""
        return self._request.endpoint.relay(self._request, self._request_id)


class Retold(Passed):
    """The same for a stream that another backend may have to continue: told anew, so that it stays one stream."""

    __slots__ = ("_reader", "_writer")

    def __init__(self, request: Request, request_id: str, reader: Reader, writer: Writer) -> None:
        super().__init__(request, request_id)
        self._reader, self._writer = reader, writer

    def relay(self) -> Relay:
        """See base.Exchange."""
        return TranslatedRelay(self._reader, self._writer)


class PassedAnswer:
    """See base.Answer."""

    __slots__ = ("_answer", "_request", "usage")

    def __init__(self, request: Request, answer: bytes) -> None:
        """Raises ValueError."""
        self._request, self._answer = request, answer
        self.usage = request.endpoint.answer_usage(answer)

    def texts(self) -> list[str]:
        """See base.Answer."""
        return self._request.endpoint.answer_texts(self._answer)

    def body(self, usage: Usage) -> bytes:
        """See base.Answer. The figures in it are the backend's own."""
        return self._request.endpoint.finish(self._request, self._answer)
