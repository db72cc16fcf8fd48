"""Passes a stream of named events on as it came, and learns from it what the ledger needs."""

from collections.abc import Callable

from billing.usage import Usage
from routing.dialects.events import Reported, text_of
from routing.dialects.readers import Reader
from routing.frames import MOST_FRAME_BYTES
from routing.sse import last_frame_end, split_frames
from teams.errors import GatewayError

_KEPT_BYTES = 32 * 1024  # of passed frames before their text is taken out, to bound memory per open stream


class PassedRelay:
    """See base.Relay. Only frames that may hold figures, an error or the end are taken apart on the way: those with
    one of the words `telling`. Quotes in texts are escaped, so no text looks like a word in quotes."""

    def __init__(
        self,
        make_reader: Callable[[], Reader],
        telling: tuple[bytes, ...],
        failing: Callable[[GatewayError, int], bytes],
        *,
        max_frame_bytes: int = MOST_FRAME_BYTES,
    ) -> None:
        self._telling = telling
        self._failing = failing
        self._max_frame_bytes = max_frame_bytes
        self._pending = b""
        self._watching, self._reading = make_reader(), make_reader()
        self._frames = 0
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._texts: list[str] = []
        self._last = b""
        self.is_done = False
        self.is_faulty = False
        self.usage: Usage | None = None
        self.is_usage_final = False

    @property
    def has_ended(self) -> bool:
        """See base.Relay."""
        return self.is_done or self.is_faulty

    def feed(self, data: bytes) -> bytes:
        """See base.Relay."""
        if self.has_ended:
            return b""
        if self._pending:
            data = self._pending + data
        end = last_frame_end(data)
        data, self._pending = data[:end], data[end:]
        if any(word in data for word in self._telling):
            data = self._inspect(data)
        if len(self._pending) > self._max_frame_bytes:
            self.is_faulty = not self.is_done
        self._keep(data)
        return data

    def end(self) -> bytes:
        """See base.Relay."""
        return self.feed(b"\n\n") if self._pending.strip() else b""

    def texts(self) -> list[str]:
        """See base.Relay."""
        self._take_texts()
        return self._texts

    def closing(self, usage: Usage) -> bytes:
        """See base.Relay: the last frame as it came."""
        return self._last

    def failing(self, error: GatewayError) -> bytes:
        """See base.Relay."""
        self._take_texts()
        return self._failing(error, self._frames)

    def _inspect(self, data: bytes) -> bytes:
        passed: list[bytes] = []
        for frame in split_frames(data):
            if any(word in frame for word in self._telling):
                try:
                    events = self._watching.frame(frame)
                except ValueError:
                    self.is_faulty = True
                    break
                for event in events:
                    if isinstance(event, Reported) and event.usage is not None:
                        self.usage, self.is_usage_final = event.usage, event.is_final
                if self._watching.is_done:
                    self.is_done, self._last = True, frame
                    break
            passed.append(frame)
        return b"".join(passed)

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > _KEPT_BYTES:
            self._take_texts()

    def _take_texts(self) -> None:
        for frame in split_frames(b"".join(self._kept)):
            self._frames += 1
            try:
                events = self._reading.frame(frame)
            except ValueError:
                continue  # what no reader understands was passed all the same
            self._texts += [text for event in events if (text := text_of(event))]
        self._kept.clear()
        self._kept_bytes = 0
