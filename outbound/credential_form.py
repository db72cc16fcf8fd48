"""The part of an administration form that stores a credential: to write, and never to read."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django import forms
from django.core.exceptions import ValidationError

from outbound.credentials import CredentialError, decrypt_credential, encrypt_credential

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[Any]
else:
    ModelForm = forms.ModelForm

SECRETS = ("credential", "remove_credential")


class CredentialForm(ModelForm):
    """Of a model that is `Called`."""

    credential = forms.CharField(
        required=False,
        max_length=2000,
        widget=forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password", "size": 60}),
        help_text="Stored encrypted, for this address's host only, and never shown. Empty: keep what is stored.",
    )
    remove_credential = forms.BooleanField(required=False, label="Remove the stored credential")

    def clean_credential(self) -> str:
        """Only what fits into a header; the message does not repeat it."""
        secret: str = self.cleaned_data["credential"]
        if not (secret.isascii() and (secret.isprintable())):
            raise ValidationError("Use printable ASCII characters only.")
        return secret

    def clean(self) -> dict[str, Any]:
        """Put the credential that will hold into the instance, before the model checks itself."""
        super().clean()
        secret, remove = self.cleaned_data.get("credential"), self.cleaned_data.get("remove_credential")
        base_url = self.cleaned_data.get("base_url", "")
        if secret and remove:
            self.add_error("remove_credential", "Enter a credential or remove it, not both.")
        elif remove:
            self.instance.credential_encrypted = None
        elif secret and _has_host(base_url):
            self.instance.credential_encrypted = encrypt_credential(secret, base_url)
        elif not secret and "base_url" in self.changed_data and _has_host(base_url):
            self._check_stored(base_url)
        return self.cleaned_data

    def _check_stored(self, base_url: str) -> None:
        stored = self.instance.credential_encrypted
        try:
            if stored is not None:
                decrypt_credential(bytes(stored), base_url)
        except CredentialError as error:
            self.add_error("credential", f"The address has changed. {error}")

    def _post_clean(self) -> None:
        """Say so when a credential has to be entered again: a password field comes back empty."""
        super()._post_clean()  # type: ignore[misc]
        if self.errors and self.cleaned_data.get("credential"):
            self.add_error("credential", "Nothing was saved. Enter the credential again.")


def _has_host(base_url: str) -> bool:
    """Whether a credential can be bound to it; what else is wrong with it the model says."""
    try:
        return bool(urlsplit(base_url).netloc)
    except ValueError:
        return False
