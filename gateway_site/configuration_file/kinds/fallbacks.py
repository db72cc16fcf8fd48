"""Which models serve in place of others."""

from gateway_site.configuration_file.forms import OneOf, Reference, Whole
from gateway_site.configuration_file.kinds.base import RowKind
from gateway_site.configuration_file.schema import Field
from routing.models import Fallback, FallbackCause


class Fallbacks(RowKind):
    """Chains of models."""

    section = "fallbacks"
    noun = "fallback"
    model = Fallback
    identity = ("model", "cause", "to")
    paths = {"model": "model__name", "to": "to__name"}
    fields = (
        Field("model", Reference("models"), "The model that was asked for."),
        Field(
            "cause",
            OneOf(FallbackCause.values),
            "When another serves: see [routing](../explanation/routing.md#fallbacks).",
        ),
        Field("to", Reference("models"), "The other model. Callers need a grant of it too."),
        Field("position", Whole(), "Lower comes first among those of the same cause. A new one has 1."),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to a fallback."""
        return set()
