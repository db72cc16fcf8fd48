"""A streamed answer on its way: first byte, silence, time limits, the caller leaving, and the bill at the end."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import msgspec

from billing.usage import Usage
from outbound.bell import Bell
from routing.answer_guarding import AnswerGuard
from routing.answer_pieces import Pieces
from routing.answer_watch import watch_stream
from routing.attempts import Attempts, stream_limit_s
from routing.call import Call
from routing.continuation import continue_request, may_be_continued
from routing.dialects.base import Exchange, Relay
from routing.dialects.table import find_exchange, make_writer
from routing.dialects.translated import TranslatedRelay
from routing.endpoints.base import Request
from routing.endpoints.usage import has_text
from routing.gateway import Gateway
from routing.growth import Growth
from routing.providers.base import UpstreamStream, backend_bad_answer, backend_broke, backend_timeout
from routing.snapshot import Target
from routing.stages import count_use
from routing.trace import Trace
from teams.errors import GatewayError, gateway_stopped, internal_error

logger = logging.getLogger(__name__)

_MOST_TIMES = (
    8  # a stream's frames hold far more bytes than the text they carry: so many times a plain answer's bound
)


async def relay_stream(
    gateway: Gateway,
    call: Call,
    request: Request,
    attempts: Attempts,
    answers: AnswerGuard | None,
    trace: Trace,
) -> AsyncGenerator[bytes, None]:
    """The pieces to send to the caller as they come: whole frames, or a comment after a silence. What is held of
    them until `answers` has looked at it comes with a later one.

    A backend that fails before its first byte is followed by another, also after comments were sent. Before the
    first piece the last failure is raised, so that it becomes a real status. After it, a failure ends the stream
    with an error event. However the stream ends - also when the caller leaves, which cancels or
    closes this generator - the backend's connection is closed, the use is charged, and the request is recorded
    here and nowhere else, before the caller gets the closing frame.
    """
    trace.is_the_streams = True
    source = _Source(gateway, request, attempts, trace)
    growth = None if trace.reserve is None else Growth(gateway, trace, trace.reserve)
    watch = None if answers is None else watch_stream(answers, gateway, trace)
    is_committed, was_told = False, True
    ending: GatewayError | None = gateway_stopped()  # unless we learn better
    try:
        while piece := await source.next_piece(was_told=was_told):
            cut = None  # what the caller is about to get is held before, however much came at once
            if growth is not None and growth.is_due(piece) and not (relay := source.backend.relay).is_done:
                cut = await growth.extend(relay.texts())
            if watch is not None:
                piece = await watch.feed(piece) or source.backend.sign_of_life()
            if was_told := bool(piece):
                is_committed = True
                yield piece
            if cut is not None:
                raise cut
        if answers is not None and watch is not None:
            if piece := await watch.close():
                is_committed = True
                yield piece
            await answers.check_last(source.backend.relay.texts(), trace)
        ending = None
    except GatewayError as error:
        ending = error
        if not is_committed:
            raise
    except Exception:
        ending = internal_error()
        if not is_committed:
            raise
        logger.exception("A stream failed for an unknown reason.", extra={"request_id": trace.id})
    finally:
        backend = source.backend
        relay = backend.relay
        backend.close()
        attempts.end(None if call.client.has_left and backend.has_begun else ending, relay.usage)
        note = _Note(gateway, call, trace, ending)
        if ending is not None and not (ending.may_have_cost and backend.is_sent):
            note.write(None)
        elif relay.usage is not None and _is_believable(relay, ending):
            note.write(relay.usage)
        else:
            await gateway.finish(_count(gateway, source.request, backend.target, relay, note))
    told = trace.usage + trace.failed_usage if source.is_continued else trace.usage
    if ending is not None:
        yield relay.failing(ending)
    else:
        yield await _watched(watch, relay.closing(told), relay)


async def _watched(watch: Pieces | None, closing: bytes, relay: Relay) -> bytes:
    """The last frames, which in some forms tell the whole answer again."""
    try:
        return closing if watch is None else await watch.feed(closing)
    except GatewayError as error:
        return relay.failing(error)
    except Exception:
        logger.exception("The last frames of a stream could not be looked through.")
        return relay.failing(internal_error())


class _Source:
    """The stream of the first backend that gives one."""

    def __init__(self, gateway: Gateway, request: Request, attempts: Attempts, trace: Trace) -> None:
        self._gateway = gateway
        self.request = request  # as the present backend is asked it
        self.is_continued = False
        self._attempts = attempts
        self._trace = trace
        continues = trace.caller is not None and trace.caller.owner.continues_streams
        may_continue = continues and trace.reserve is None and may_be_continued(request)
        self._writer = make_writer(request, trace) if may_continue else None
        self.backend = self._open()

    async def next_piece(self, *, was_told: bool) -> bytes:
        """See BackendStream; where a backend fails before its first byte, the next one's, and after it too, where the
        stream may be continued."""
        while True:
            try:
                return await self.backend.next_piece(was_told=was_told)
            except GatewayError as error:
                if self.backend.has_begun:
                    went_on = await self._continue(error)
                else:
                    await self._charge_unanswered(error)
                    went_on = await self._attempts.go_on(error)
                if not went_on:
                    raise
                self.backend = self._open()

    def _open(self) -> "BackendStream":
        target = self._attempts.target
        exchange = find_exchange(self.request, target, self._trace, self._writer)
        begun = self._attempts.begun
        return BackendStream(self._gateway, self.request, target, exchange, self._trace, begun)

    async def _continue(self, error: GatewayError) -> bool:
        """Have another backend go on where this one stopped."""
        relay, target = self.backend.relay, self.backend.target
        if self._writer is None or not isinstance(relay, TranslatedRelay) or not relay.has_only_text:
            return False
        self.backend.close()
        counted = await count_use(self._gateway, self.request, target, relay.texts())
        usage = _of_cut(counted, relay.usage)
        request = continue_request(self.request, "".join(relay.texts()), usage.output_tokens)
        self._trace.charge(usage)
        if request is None or not await self._attempts.go_on(error, said_tokens=usage.output_tokens):
            return False
        self.backend.is_sent = False  # it is charged, whatever becomes of the next
        self.request, self.is_continued = request, True
        self._attempts.prepare(request)
        return True

    async def _charge_unanswered(self, error: GatewayError) -> None:
        """Be done with a backend that failed before its first byte; it may bill the prompt all the same."""
        self.backend.close()
        if not error.may_have_cost:
            self.backend.is_sent = False  # what was refused costs nothing, whatever becomes of this request
        elif self.backend.is_sent:
            self._trace.charge(await count_use(self._gateway, self.request, self.backend.target, []))


def _is_believable(relay: Relay, ending: GatewayError | None) -> bool:
    """Whether the backend's figures cover the whole stream: they came last, and not beside a text they deny."""
    if relay.usage is None or not (ending is None or relay.is_usage_final):
        return False
    return relay.usage.output_tokens > 0 or not has_text(relay.texts())


@dataclass(frozen=True, slots=True)
class _Note:
    """How a stream ended, to be written once its use is known."""

    gateway: Gateway
    call: Call
    trace: Trace
    ending: GatewayError | None

    def write(self, usage: Usage | None) -> None:
        """Charge `usage`, note the end, and record both."""
        if usage is not None:
            self.trace.charge(usage)
        if self.call.client.has_left:
            self.trace.leave()
        elif self.ending is not None:
            self.trace.fail(self.ending)
        self.gateway.record(self.trace)


async def _count(gateway: Gateway, request: Request, target: Target, relay: Relay, note: _Note) -> None:
    """Write `note` with our count. Figures that a backend reported on the way, of a stream that then broke
    off, cover only its beginning: the larger output holds."""
    usage, reported = None, relay.usage
    try:
        usage = _of_cut(await count_use(gateway, request, target, relay.texts()), reported)
    finally:
        note.write(usage or reported)


def _of_cut(counted: Usage, reported: Usage | None) -> Usage:
    """The use of a stream that broke off: of the prompt the backend knows best, cached parts and all; of the answer the
    larger figure holds."""
    if reported is None:
        return counted
    if reported.output_tokens >= counted.output_tokens:
        return reported
    return msgspec.structs.replace(reported, output_tokens=counted.output_tokens, estimated=True)


class BackendStream:
    """The backend's side of one stream, under its time limits."""

    def __init__(
        self,
        gateway: Gateway,
        request: Request,
        target: Target,
        exchange: Exchange,
        trace: Trace,
        on_first_byte: Callable[[], None],
    ) -> None:
        """Begin to open the stream at once."""
        self.target = target
        self._on_first_byte = on_first_byte
        self.has_begun = False  # its first byte is here
        self._keepalive_s = gateway.options.keepalive_s
        self._keepalive_at = time.monotonic() + self._keepalive_s
        self._bytes_left = _MOST_TIMES * gateway.options.max_answer_bytes
        self.relay = exchange.relay()
        self._keep_alive = request.endpoint.wire.keep_alive
        self._trace = trace
        self._idle_timeout_s = target.idle_timeout_s
        now = time.monotonic()
        self._deadline = now + stream_limit_s(gateway, target)
        self._silence_ends = now + target.first_byte_timeout_s
        self._news = Bell()
        self.is_sent = False
        self._stream: UpstreamStream | None = None
        provider, body = gateway.provider(target.provider), exchange.body(target.upstream_model)
        opened = provider.open_stream(target, exchange.path, body, trace.id, self._note_sent)
        self._opening = asyncio.ensure_future(opened)
        self._opening.add_done_callback(self._news.ring)

    async def next_piece(self, *, was_told: bool) -> bytes:
        """Frames, or a sign of life after a silence; b"" when the stream ended properly. `was_told`: the caller has
        just been sent the last one. Raises GatewayError."""
        if was_told:
            self._keepalive_at = time.monotonic() + self._keepalive_s
        while not self.relay.is_done:
            if self.relay.is_faulty or self._bytes_left < 0:
                raise backend_bad_answer()
            data = await self._read_or_silence()
            if data is None:
                return self._keep_alive
            if not data:
                if piece := self.relay.end():
                    return piece
                if not self.relay.has_ended:
                    raise backend_broke()
                continue
            if not self.has_begun:
                self.has_begun = True
                self._trace.first_byte_arrived()
                self._on_first_byte()
            self._bytes_left -= len(data)
            if piece := self.relay.feed(data):
                return piece
            if time.monotonic() >= self._keepalive_at:  # a frame that drips is a silence for the caller
                return self._keep_alive
        return b""

    def sign_of_life(self) -> bytes:
        """For a caller who has heard nothing for the keep-alive time, else nothing."""
        return self._keep_alive if time.monotonic() >= self._keepalive_at else b""

    def close(self) -> None:
        """Drop the connection, whatever state it is in."""
        self._news.close()
        if self._stream is not None:
            self._stream.close()
        else:
            self._opening.cancel()
            self._opening.add_done_callback(_close_result)

    def _note_sent(self) -> None:
        self.is_sent = True

    def _take(self) -> bytes | None:
        """What has arrived, None when nothing has yet. Raises GatewayError."""
        if self._stream is None:
            if not self._opening.done():
                return None
            self._stream = self._opening.result()
            self._stream.listen(self._news.ring)
        return self._stream.take()

    async def _read_or_silence(self) -> bytes | None:
        """What arrived, or None when nothing did and the caller has heard nothing for the keep-alive time.

        Raises GatewayError. The clock is looked at first: a backend that never pauses is late all the same.
        """
        while True:
            now = time.monotonic()
            if now >= self._deadline:
                raise backend_timeout("whole call")
            if (data := self._take()) is not None:
                self._silence_ends = now + self._idle_timeout_s
                return data
            if now >= self._silence_ends and self._silence_ends <= self._keepalive_at:
                raise backend_timeout("silence")
            if now >= self._keepalive_at:
                return None
            await self._news.wait(min(self._keepalive_at, self._silence_ends, self._deadline))


def _close_result(opening: "asyncio.Future[UpstreamStream]") -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
