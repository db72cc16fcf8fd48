"""Kinds of objects that are called: with an address, and a credential to write and never to read."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from django.core.exceptions import ValidationError

from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Secret, Text
from gateway_site.configuration_file.kinds.base import Difference, Row, RowKind
from gateway_site.configuration_file.schema import Entry, Field
from outbound.credential_fields import Called
from outbound.credentials import CredentialError, decrypt_credential, encrypt_credential

_LONGEST_CREDENTIAL = 2000

CREDENTIAL = (
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
)


class CalledKind(RowKind):
    """Its fields are to have CREDENTIAL among them."""

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
            yield f"the new {self.noun} {entry.values['name']} has no credential"

    def assign(self, target: Called, values: Mapping[str, Any]) -> list[str]:
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


def _keeps_credential(entry: Entry, backend: Called) -> bool:
    """Whether the stored credential would be sent to a new address."""
    is_touched = "credential" in entry.values or entry.values.get("credential_reference")
    is_moved = entry.values.get("base_url", backend.base_url) != backend.base_url
    return backend.credential_encrypted is not None and is_moved and not is_touched


def _stored_credential(backend: Called, entry: Entry) -> str | None:
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
