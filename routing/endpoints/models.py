"""GET /v1/models and /v1/models/{id}."""

from collections.abc import Iterable
from typing import Any

from routing.endpoints.base import encode
from routing.snapshot import ServedModel


def render_model(model: ServedModel) -> bytes:
    """The body of GET /v1/models/{id}."""
    return encode(_describe(model))


def render_models(models: Iterable[ServedModel]) -> bytes:
    """The body of GET /v1/models, by name."""
    data = [_describe(model) for model in sorted(models, key=lambda model: model.name)]
    return encode({"object": "list", "data": data})


def _describe(model: ServedModel) -> dict[str, Any]:
    created = int(model.created_at.timestamp())
    return {"id": model.name, "object": "model", "created": created, "owned_by": "gateway"}
