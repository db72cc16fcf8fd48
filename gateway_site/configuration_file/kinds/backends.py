"""Backends, with their credential to write and never to read."""

from gateway_site.configuration_file.forms import Flag, ListOf, OneOf, Text, Whole
from gateway_site.configuration_file.kinds.called import CREDENTIAL, CalledKind
from gateway_site.configuration_file.schema import Field
from routing.models import Backend, Provider


class Backends(CalledKind):
    """Deployments at providers."""

    section = "backends"
    noun = "backend"
    model = Backend
    identity = ("name",)
    fields = (
        Field("name", Text(), "Its name here."),
        Field("provider", OneOf(Provider.values), "Which form of API it speaks. A new one has `openai`."),
        Field(
            "base_url",
            Text(),
            "Its address, up to and including `/v1`. A stored credential belongs to its host.",
            is_needed=True,
        ),
        Field("upstream_model", Text(), "The provider's name of the model or deployment.", is_needed=True),
        Field(
            "api_version", Text(), 'The version of its API that is asked for. "": the provider\'s usual one.'
        ),
        Field(
            "passes_responses",
            Flag(),
            "`true`: it has `/responses` itself, and such calls are passed to it. `false`: they become chats.",
        ),
        *CREDENTIAL,
        Field(
            "entra_tenant", Text(), "Azure: the tenant where the credential is a client's secret of Entra ID."
        ),
        Field("entra_client_id", Text(), "Azure: the client whose secret it is."),
        Field("tags", ListOf(Text()), "What it complies with, such as `eu`: callers may require tags."),
        Field("region", Text(), "Where it is, for teams that prefer regions."),
        Field("quality", Whole(), "How good its answers are, 0 to 100: models may have a floor."),
        Field("most_calls", Whole(), "Calls at once, of all workers. Null: no bound.", is_nullable=True),
        Field(
            "tokens_per_minute",
            Whole(),
            "The provider's quota, of all workers. Null: no bound.",
            is_nullable=True,
        ),
        Field("adapts", Flag(), "`true`: it gets fewer calls at once when it throttles or slows down."),
        Field("connect_timeout_s", Whole(), "Seconds to open a connection."),
        Field("first_byte_timeout_s", Whole(), "Seconds to the first byte of a stream."),
        Field("idle_timeout_s", Whole(), "Seconds between two pieces of a stream."),
        Field("total_timeout_s", Whole(), "Seconds for a whole call."),
        Field(
            "check_every_s", Whole(), "Seconds between checks of whether it is well. 0: by its calls only."
        ),
        Field("keep_alive_s", Whole(), "Seconds that a connection is kept for the next call. 0: none is."),
        Field(
            "most_idle",
            Whole(),
            "Connections that are kept so, of each worker. Null: no bound.",
            is_nullable=True,
        ),
        Field("longest_trip_s", Whole(), "Seconds that it is left alone at most when it fails. 0: never."),
        Field(
            "list_price_provider",
            Text(),
            "A provider of the list prices, which hold while the backend has no price of its own.",
        ),
        Field("list_price_model", Text(), 'Its name in the list prices. "": as `upstream_model`.'),
        Field("is_active", Flag(), "`false`: it gets no calls."),
        Field("is_draining", Flag(), "`true`: it gets no new calls; those under way end as usual."),
    )
