"""Backends, with their credential to write and never to read."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.core.exceptions import ValidationError

from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Flag, ListOf, OneOf, Secret, Text, Whole
from gateway_site.configuration_file.kinds.base import Difference, Row, RowKind
from gateway_site.configuration_file.schema import Entry, Field
from outbound.credentials import CredentialError, decrypt_credential, encrypt_credential
from routing.models import Backend, Provider

_LONGEST_CREDENTIAL = 2000


class Backends(RowKind):
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
        Field(
            "credential",
            Secret(),
            "Stored encrypted, instead of a reference. Not given: kept. Null: removed.",
            is_nullable=True,
            is_exported=False,
        ),
        Field(
            "credential_reference",
            Text(),
            "`env:GATEWAY_CREDENTIAL_...` or `file:/...`, instead of a stored credential.",
        ),
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

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """One credential; one that fits into a header; and none that belongs to another host."""
        credential = entry.values.get("credential")
        if credential is not None and entry.values.get("credential_reference"):
            yield entry.fault("give a credential or a credential_reference, not both", "credential_reference")
        if credential is not None and not _fits_into_header(credential):
            yield entry.fault(
                f"credential: 1 to {_LONGEST_CREDENTIAL} printable ASCII characters are needed", "credential"
            )
        if row is not None and not entry.is_absent and _keeps_credential(entry, row.target):
            try:
                decrypt_credential(bytes(row.target.credential_encrypted), entry.values["base_url"])
            except CredentialError as error:
                yield entry.fault(f"base_url: the address has changed. {error}", "base_url")

    def compare(self, entry: Entry, row: Row) -> dict[str, Difference]:
        """A credential differs when what is stored opens to another one, or to none."""
        differences = super().compare(entry, row)
        is_stored = row.target.credential_encrypted is not None
        if entry.values.get("credential") is not None:
            if not is_stored or _stored_credential(row.target, entry) != entry.values["credential"]:
                differences["credential"] = ("set", "replaced") if is_stored else ("not set", "set")
        elif is_stored and ("credential" in entry.values or entry.values.get("credential_reference")):
            differences["credential"] = ("set", "removed")
        reference = row.values["credential_reference"]
        if reference and entry.values.get("credential") and "credential_reference" not in entry.values:
            differences["credential_reference"] = (reference, "")
        return differences

    def notes(self, entry: Entry, row: Row | None) -> Iterable[str]:
        """A new backend without a credential: after an export that is a gap, otherwise it may be meant so."""
        has_one = entry.values.get("credential") or entry.values.get("credential_reference")
        if row is None and not entry.is_absent and not has_one:
            yield f"the new backend {entry.values['name']} has no credential"

    def assign(self, target: Backend, values: Mapping[str, Any]) -> list[str]:
        """Encrypt the credential for the address that will hold; one kind of credential takes the other's place."""
        values = dict(values)
        is_given, credential = "credential" in values, values.pop("credential", None)
        names = super().assign(target, values)
        if is_given or values.get("credential_reference"):
            target.credential_encrypted = None
            names.append("credential_encrypted")
        if credential is not None:
            target.credential_encrypted = _encrypt(credential, target.base_url)
            target.credential_reference = ""
            names.append("credential_reference")
        return names


def _fits_into_header(credential: str) -> bool:
    return bool(credential) and credential.isascii() and len(credential) <= _LONGEST_CREDENTIAL


def _keeps_credential(entry: Entry, backend: Backend) -> bool:
    """Whether the stored credential would be sent to a new address."""
    is_touched = "credential" in entry.values or entry.values.get("credential_reference")
    is_moved = entry.values.get("base_url", backend.base_url) != backend.base_url
    return backend.credential_encrypted is not None and is_moved and not is_touched


def _stored_credential(backend: Backend, entry: Entry) -> str | None:
    """What is stored, if it opens for the address that will hold."""
    try:
        address = entry.values.get("base_url", backend.base_url)
        return decrypt_credential(bytes(backend.credential_encrypted or b""), address)
    except CredentialError:
        return None


def _encrypt(credential: str, base_url: str) -> bytes:
    try:
        return encrypt_credential(credential, base_url)
    except (CredentialError, ValueError) as error:
        raise ValidationError({"base_url": f"A credential cannot be stored for it: {error}"}) from None
