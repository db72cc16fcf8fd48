"""What every stored address that is called has besides: a credential, encrypted or by reference."""

from django.core.exceptions import ValidationError
from django.db import models

from outbound.addresses import ForbiddenAddress, check_base_url
from outbound.credentials import CredentialError, check_reference, resolve_credential


class Called(models.Model):
    """With a `base_url` of its own. The credential belongs to that address's host, and is never shown."""

    base_url: "models.CharField[str, str]"
    credential_reference = models.CharField(
        max_length=500,
        blank=True,
        help_text="env:GATEWAY_CREDENTIAL_... or file:/run/secrets/..., instead of a stored credential.",
    )
    credential_encrypted = models.BinaryField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True

    def clean(self) -> None:
        """Check what the administrator typed: the address, and the form of the reference."""
        errors: dict[str, str] = {}
        try:
            check_base_url(self.base_url)
        except ForbiddenAddress as error:
            errors["base_url"] = str(error)
        try:
            check_reference(self.credential_reference)
        except CredentialError as error:
            errors["credential_reference"] = str(error)
        if self.credential_reference and self.credential_encrypted:
            errors["credential_reference"] = "Give a reference or a stored credential, not both."
        if errors:
            raise ValidationError(errors)

    @property
    def credential_state(self) -> str:
        """Where the credential comes from, for people."""
        if self.credential_encrypted is not None:
            return "Stored"
        return "By reference" if self.credential_reference else "None"

    def resolve(self) -> str | None:
        """The credential to send, if any. Raises CredentialError, and ForbiddenAddress for an address that may no
        longer be called."""
        check_base_url(self.base_url)
        encrypted = None if self.credential_encrypted is None else bytes(self.credential_encrypted)
        return resolve_credential(self.credential_reference, encrypted, self.base_url)
