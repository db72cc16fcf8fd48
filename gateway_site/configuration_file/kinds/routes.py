"""Which backends may serve which model."""

from gateway_site.configuration_file.forms import Reference, Whole
from gateway_site.configuration_file.kinds.base import RowKind
from gateway_site.configuration_file.schema import Field
from routing.models import Route


class Routes(RowKind):
    """Ways from a model to a backend."""

    section = "routes"
    noun = "route"
    model = Route
    identity = ("model", "backend")
    paths = {"model": "model__name", "backend": "backend__name"}
    fields = (
        Field("model", Reference("models"), "The model that is served."),
        Field("backend", Reference("backends"), "The backend that serves it."),
        Field(
            "priority",
            Whole(),
            "Lower comes first; those of the same priority share the calls. A new one has 1.",
        ),
        Field("weight", Whole(), "Its part of the calls among those of its priority. A new one has 100."),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to a route."""
        return set()
