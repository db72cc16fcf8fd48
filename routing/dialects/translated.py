"""Caller and backend speak different forms: the request is carried over, the answer told in the caller's words."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from billing.usage import Usage
from routing.dialects.events import Began, Event, Reported, Text, text_of
from routing.dialects.parts import gather
from routing.dialects.readers import Reader
from routing.dialects.writers import Writer
from routing.frames import MOST_FRAME_BYTES
from routing.sse import last_frame_end, split_frames
from teams.errors import GatewayError

encode = msgspec.json.Encoder().encode


class Translated:
    """See base.Exchange. `fields` are the request's in the backend's form."""

    def __init__(
        self,
        path: str,
        fields: Mapping[str, Any],
        make_reader: Callable[[], Reader],
        make_writer: Callable[[], Writer],
    ) -> None:
        self.path = path
        self._fields = fields
        self._make_reader = make_reader
        self._make_writer = make_writer

    def body(self, upstream_model: str) -> bytes:
        """See base.Exchange."""
        return encode({**self._fields, "model": upstream_model})

    def read(self, answer: bytes) -> "TranslatedAnswer":
        """See base.Exchange."""
        return TranslatedAnswer(self._make_reader().plain(answer), self._make_writer())

    def relay(self) -> "TranslatedRelay":
        """See base.Exchange."""
        return TranslatedRelay(self._make_reader(), self._make_writer())


class TranslatedAnswer:
    """See base.Answer."""

    def __init__(self, events: list[Event], writer: Writer) -> None:
        self._events = events
        self._writer = writer
        reports = [event.usage for event in events if isinstance(event, Reported)]
        self.usage = reports[-1] if reports else None

    def texts(self) -> list[str]:
        """See base.Answer."""
        return [text for event in self._events if (text := text_of(event))]

    def body(self, usage: Usage) -> bytes:
        """See base.Answer."""
        return self._writer.plain(gather(self._events), usage)


class TranslatedRelay:
    """See base.Relay."""

    def __init__(self, reader: Reader, writer: Writer, *, max_frame_bytes: int = MOST_FRAME_BYTES) -> None:
        self._reader = reader
        self._writer = writer
        self._max_frame_bytes = max_frame_bytes
        self._pending = b""
        self._texts: list[str] = []
        self.is_done = False
        self.is_faulty = False
        self.usage: Usage | None = None
        self.is_usage_final = False
        self.has_only_text = True  # and may be continued

    @property
    def has_ended(self) -> bool:
        """See base.Relay."""
        return self.is_done or self.is_faulty

    def feed(self, data: bytes) -> bytes:
        """See base.Relay."""
        if self.has_ended:
            return b""
        data = self._pending + data
        end = last_frame_end(data)
        data, self._pending = data[:end], data[end:]
        passed: list[bytes] = []
        for frame in split_frames(data):
            try:
                events = self._reader.frame(frame)
            except ValueError:
                self.is_faulty = True
                break
            passed += [self._take(event) for event in events]
            if self._reader.is_done:
                self.is_done = True
                break
        if len(self._pending) > self._max_frame_bytes:
            self.is_faulty = not self.is_done
        return b"".join(passed)

    def end(self) -> bytes:
        """See base.Relay."""
        return self.feed(b"\n\n") if self._pending.strip() else b""

    def texts(self) -> list[str]:
        """See base.Relay."""
        return self._texts

    def closing(self, usage: Usage) -> bytes:
        """See base.Relay."""
        return self._writer.closing(usage)

    def failing(self, error: GatewayError) -> bytes:
        """See base.Relay."""
        return self._writer.failing(error)

    def _take(self, event: Event) -> bytes:
        if isinstance(event, Reported):
            if event.usage is not None:
                self.usage, self.is_usage_final = event.usage, event.is_final
            return b""
        if text := text_of(event):
            self._texts.append(text)
        self.has_only_text = self.has_only_text and isinstance(event, Began | Text)
        return self._writer.write(event)
