"""Models that pass requests on by what they are about."""

from gateway_site.configuration_file.forms import OneOf, Reference
from gateway_site.configuration_file.kinds.base import RowKind
from gateway_site.configuration_file.schema import Field
from routing.models import ContentRoute, Suit


class ContentRoutes(RowKind):
    """Which model such a request goes to."""

    section = "content_routes"
    noun = "content route"
    model = ContentRoute
    identity = ("model", "suit")
    paths = {"model": "model__name", "to": "to__name"}
    fields = (
        Field("model", Reference("models"), "The model that passes its requests on."),
        Field(
            "suit",
            OneOf(Suit.values),
            "Which of them: see [routing](../explanation/routing.md#by-what-a-request-is-about).",
        ),
        Field("to", Reference("models"), "Where they go. Callers need a grant of it too.", is_needed=True),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to a content route."""
        return set()
