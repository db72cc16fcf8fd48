"""What one request can reach: the model it asks for, and those that may serve in its place."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from billing.estimate import longest_answer
from routing.content import order_of, read_content
from routing.dialects.table import prepare
from routing.endpoints.base import Request
from routing.endpoints.bounds import check_max_tokens
from routing.resilience_models import FallbackCause
from routing.snapshot import ServedModel, Snapshot, Target
from routing.trace import Trace
from teams.errors import GatewayError, model_not_granted, tags_missing
from teams.key_holder import KeyHolder

_NO_FALLBACKS: Mapping[str, Sequence[ServedModel]] = MappingProxyType({})


class Reach(msgspec.Struct, frozen=True):
    """`fallbacks`: by the cause for which they serve (resilience_models.FallbackCause), in their order."""

    model: ServedModel
    fallbacks: Mapping[str, Sequence[ServedModel]] = _NO_FALLBACKS

    @property
    def models(self) -> list[ServedModel]:
        """All of them, each once."""
        others = {other.model_id: other for chain in self.fallbacks.values() for other in chain}
        return [self.model, *others.values()]

    @property
    def targets(self) -> Sequence[Target]:
        """All backends that may come to serve the request."""
        if not self.fallbacks:
            return self.model.targets
        return tuple({t.backend_id: t for model in self.models for t in model.targets}.values())

    @property
    def longest_answer(self) -> int:
        """In tokens, of a request that sets no bound."""
        return max([longest_answer(None, model.max_output_tokens) for model in self.models])


def suit_model(
    snapshot: Snapshot, caller: KeyHolder, request: Request, model: ServedModel, trace: Trace
) -> ServedModel:
    """The model that `model` passes the request on to, by what it is about; itself when it serves by itself.

    Of those the caller may use: the one that suits, else the nearest; how it was read is in the trace. Raises
    GatewayError when it may use none.
    """
    if not model.content_routes:
        return model
    trace.reading = read_content(request)
    for suit in order_of(trace.reading.suit):
        other = snapshot.models.get(model.content_routes.get(suit, ""))
        if other is not None and _may_use(caller, other):
            return other
    raise model_not_granted(model.name)


def find_reach(
    snapshot: Snapshot, caller: KeyHolder, request: Request, model: ServedModel, tags: frozenset[str]
) -> Reach:
    """What can serve `request`, made ready for it: backends that have all of `tags`, and take its form.

    A fallback that the caller may not use, or that cannot take the request, is passed over. Raises GatewayError when
    no backend of `model` itself can take it, nor a fallback.
    """
    if not model.fallbacks:
        return Reach(_fit(request, model, tags))
    others = [snapshot.models[name] for _, name in model.fallbacks if name in snapshot.models]
    least = min([longest_answer(None, each.max_output_tokens) for each in (model, *others)])
    try:
        asked, refusal = _fit(request, model, tags, least), None
    except GatewayError as error:
        asked, refusal = model.only(()), error
    chains: dict[str, list[ServedModel]] = {}
    for cause, name in model.fallbacks:
        if (other := _prepared(snapshot, caller, request, name, tags, least)) is not None:
            chains.setdefault(cause, []).append(other)
    if refusal is not None and FallbackCause.ANY not in chains:
        raise refusal
    return Reach(asked, chains)


def _may_use(caller: KeyHolder, model: ServedModel) -> bool:
    return caller.team_id in model.granted_teams and caller.may_use(model.catalogue_name)


def _fit(
    request: Request, model: ServedModel, tags: frozenset[str], most_tokens: int | None = None
) -> ServedModel:
    """The model by those of its backends that may and can take the request. Raises GatewayError when none is left."""
    if tags and model.targets:
        model = model.only([target for target in model.targets if tags <= target.tags])
        if not model.targets:
            raise tags_missing(model.name, sorted(tags))
    return prepare(request, model, most_tokens=most_tokens)


def _prepared(
    snapshot: Snapshot, caller: KeyHolder, request: Request, name: str, tags: frozenset[str], most_tokens: int
) -> ServedModel | None:
    other = snapshot.models.get(name)
    if other is None or not _may_use(caller, other):
        return None
    try:
        check_max_tokens(request.max_tokens_field, request.max_tokens, other.max_output_tokens)
        return _fit(request, other, tags, most_tokens)
    except GatewayError:
        return None
