"""The REST views of the data plane, and the async base they share."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from django.http import HttpRequest
from rest_framework.views import APIView

from billing.ledger import clean_text
from routing import pipeline
from routing.call import Call, Reply
from routing.endpoints.base import Endpoint
from routing.errors import OPENAI, Wire, render_error
from routing.gateway import Gateway
from routing.headers import describe
from routing.stages import reserve_record
from routing.trace import Trace
from teams.errors import GatewayError, gateway_stopped, internal_error, method_not_allowed, path_unknown

logger = logging.getLogger(__name__)

Stage = Callable[[Gateway, Call, Trace], Awaitable[Reply]]


class DataPlaneRequest(HttpRequest):
    """A request of the data plane: method, path, and the call as the pipeline takes it.

    It has no query, form, cookie or file, and does without what HttpRequest prepares for them.
    """

    def __init__(self, gateway: Gateway, call: Call) -> None:
        self.method, self.path, self.path_info = call.method, call.path, call.path
        self.gateway, self.call = gateway, call


class GatewayView(APIView):
    """Runs one pipeline function per method and answers for everything that can go wrong in it.

    An async APIView whose `dispatch` is awaited directly and returns the Reply that the handler sends: no
    thread, no session, no content negotiation.
    Every request that is refused, fails or calls a backend is recorded exactly once: here, or, once a
    stream has begun, by the stream.
    """

    operation = "unknown"
    wire: Wire = OPENAI
    is_recorded = True  # whether success is an entry of the ledger

    def __init__(self) -> None:
        super().__init__()
        self.stages: dict[str, Stage] = {
            name: getattr(self, name.lower()) for name in ("GET", "POST") if hasattr(self, name.lower())
        }

    async def dispatch(self, request: DataPlaneRequest, *args: Any, **kwargs: Any) -> Reply:  # type: ignore[override]
        """The reply to `request`."""
        gateway, call = request.gateway, request.call
        trace = Trace(self.operation, client_request_id=_client_request_id(call))
        try:
            reserve_record(gateway)
        except GatewayError as error:
            logger.error("A request is refused: %s", error, extra=_fields(trace))
            trace.fail(error)
            gateway.count_unrecorded(trace)
            return self._identify(gateway, self._render(error, trace), trace)
        try:
            reply = await self.run(gateway, call, trace)
        except BaseException:
            if not trace.is_the_streams:
                gateway.record(trace)
            raise
        if not trace.is_the_streams:
            if self.is_recorded or reply.status != 200:
                gateway.record(trace)
            else:
                gateway.ledger.spool.release()
                gateway.count_unrecorded(trace)
        return self._identify(gateway, reply, trace)

    async def run(self, gateway: Gateway, call: Call, trace: Trace) -> Reply:
        """The reply of the method's pipeline function, or the error it ended with, noted in `trace`."""
        try:
            if (stage := self.stages.get(call.method)) is None:
                raise self.no_stage(call)
            return await stage(gateway, call, trace)
        except GatewayError as error:
            failure = error
        except asyncio.CancelledError:
            if not call.client.has_left:
                trace.fail(gateway_stopped())
            raise
        except Exception:
            logger.exception("A request failed for an unknown reason.", extra=_fields(trace))
            failure = internal_error()
        trace.fail(failure)
        if failure.status >= 500:
            logger.warning("A request failed: %s", failure, extra=_fields(trace))
        return self._render(failure, trace)

    def no_stage(self, call: Call) -> GatewayError:
        """The error for a method this view does not have."""
        return method_not_allowed(call.method, list(self.stages))

    def refuse_unread(self, gateway: Gateway, call: Call, error: GatewayError) -> Reply:
        """The recorded refusal of a request whose body could not be read."""
        trace = Trace("unread", client_request_id=_client_request_id(call))
        trace.fail(error)
        try:
            reserve_record(gateway)
        except GatewayError as full:
            gateway.count_unrecorded(trace)
            return self._identify(gateway, self._render(full, trace), trace)
        gateway.record(trace)
        return self._identify(gateway, self._render(error, trace), trace)

    def _render(self, error: GatewayError, trace: Trace) -> Reply:
        return render_error(self.wire, error, trace.id)

    def _identify(self, gateway: Gateway, reply: Reply, trace: Trace) -> Reply:
        """`reply` with the id that finds this request in the ledger and in the logs, and with what was done for it."""
        reply.headers.update(describe(trace, gateway.options.shown))
        reply.headers[self.wire.id_header] = trace.id
        return reply


class CompletionView(GatewayView):
    """One endpoint that calls a backend."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.operation, self.wire = endpoint.operation, endpoint.wire

    async def post(self, gateway: Gateway, call: Call, trace: Trace) -> Reply:
        """See pipeline.complete."""
        return await pipeline.complete(gateway, call, self.endpoint, trace)


class CountTokensView(CompletionView):
    """/v1/messages/count_tokens"""

    is_recorded = False

    async def post(self, gateway: Gateway, call: Call, trace: Trace) -> Reply:
        """See pipeline.count_prompt."""
        return await pipeline.count_prompt(gateway, call, self.endpoint, trace)


class ModelsView(GatewayView):
    """/v1/models"""

    operation = "models"
    is_recorded = False

    async def get(self, gateway: Gateway, call: Call, trace: Trace) -> Reply:
        """See pipeline.list_models."""
        return await pipeline.list_models(gateway, call, trace)


class ModelView(ModelsView):
    """/v1/models/{id}"""

    async def get(self, gateway: Gateway, call: Call, trace: Trace) -> Reply:
        """See pipeline.show_model."""
        return await pipeline.show_model(gateway, call, trace)


class UnknownPathView(GatewayView):
    """Every other path of the data plane: refused in JSON, never proxied."""

    def no_stage(self, call: Call) -> GatewayError:
        """404, whatever the method."""
        return path_unknown(call.method, clean_text(call.path))


def _client_request_id(call: Call) -> str:
    return clean_text(call.headers.get("x-client-request-id", ""))


def _fields(trace: Trace) -> dict[str, object]:
    """What a log line says of a request: never a header, never a body."""
    return {"request_id": trace.id, "backend": trace.target.name if trace.target else None}
