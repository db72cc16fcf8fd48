"""What one request can reach: the model it asks for, and those that may serve in its place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from billing.estimate import longest_answer
from routing.dialects.table import prepare
from routing.endpoints.base import Request
from routing.endpoints.bounds import check_max_tokens
from routing.snapshot import ServedModel, Snapshot, Target
from teams.errors import GatewayError
from teams.key_holder import KeyHolder


@dataclass(frozen=True, slots=True)
class Reach:
    """`fallbacks`: by the cause for which they serve (resilience_models.FallbackCause), in their order."""

    model: ServedModel
    fallbacks: Mapping[str, Sequence[ServedModel]] = field(default_factory=dict)

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


def find_reach(snapshot: Snapshot, caller: KeyHolder, request: Request, model: ServedModel) -> Reach:
    """What can serve `request`, made ready for it. A fallback that the caller may not use, or that cannot take the
    request, is passed over. Raises GatewayError when no backend of `model` itself can take it, nor a fallback."""
    if not model.fallbacks:
        return Reach(prepare(request, model))
    try:
        asked, refusal = prepare(request, model), None
    except GatewayError as error:
        asked, refusal = model.without_targets(), error
    chains: dict[str, list[ServedModel]] = {}
    for cause, name in model.fallbacks:
        if (other := _prepared(snapshot, caller, request, name)) is not None:
            chains.setdefault(cause, []).append(other)
    if refusal is not None and not chains:
        raise refusal
    return Reach(asked, chains)


def _prepared(snapshot: Snapshot, caller: KeyHolder, request: Request, name: str) -> ServedModel | None:
    other = snapshot.models.get(name)
    if other is None or caller.team_id not in other.granted_teams or not caller.may_use(name):
        return None
    try:
        check_max_tokens(request.max_tokens_field, request.max_tokens, other.max_output_tokens)
        return prepare(request, other)
    except GatewayError:
        return None
