"""The forms of API keys: a new one's, an existing one's, and those of the steps."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.admin.widgets import AdminSplitDateTime, FilteredSelectMultiple
from django.core.exceptions import ValidationError
from django.utils import timezone

from teams.key_rules import Endpoint, normalise_ip_ranges
from teams.models import ApiKey, Team
from teams.queries import list_granted_models
from teams.services import DEFAULT_KEY_LIFE

if TYPE_CHECKING:
    ModelForm = forms.ModelForm[ApiKey]
else:
    ModelForm = forms.ModelForm

RULES = ["scopes", "allowed_models", "ip_ranges", "required_tags"]


class LinesField(forms.CharField):
    """A list, one item a line."""

    widget = forms.Textarea(attrs={"rows": 4, "cols": 45, "spellcheck": "false"})

    def prepare_value(self, value: Any) -> Any:
        """The stored list as text; what was typed as it is."""
        return value if value is None or isinstance(value, str) else "\n".join(value)

    def to_python(self, value: Any) -> Any:
        """The lines that hold something."""
        return [line.strip() for line in (value or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        """Whether the lines differ."""
        return bool(list(initial or []) != self.to_python(data))


class KeyForm(ModelForm):
    """What is common: the name, the application, the expiry and the rules of a key of one team."""

    expires_at = forms.SplitDateTimeField(label="Expires at", required=False, widget=AdminSplitDateTime())
    never_expires = forms.BooleanField(required=False, label="Never expires")
    scopes = forms.MultipleChoiceField(
        choices=Endpoint.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label="Endpoints",
        help_text="Which endpoints it may call. None chosen: all.",
    )
    allowed_models = forms.MultipleChoiceField(
        required=False,
        label="Models",
        error_messages={"invalid_choice": "The team has not been granted %(value)s."},
    )
    ip_ranges = LinesField(
        required=False,
        label="IP ranges",
        help_text="One a line, such as 192.0.2.0/24 or 2001:db8::/32. None: it works from anywhere.",
    )

    required_tags = LinesField(
        required=False,
        label="Required tags",
        help_text="One a line. Its calls only go to backends that have all of these, besides those of its team.",
    )

    class Meta:
        model = ApiKey
        fields = ["name", "application", "expires_at", *RULES]

    def offer_what_is_of(self, team: Team, chosen: Iterable[str] = ()) -> None:
        """Offer the team's applications and models; of models also those chosen before."""
        if (application := self.fields.get("application")) is not None:
            application.queryset = team.applications.order_by("slug")  # type: ignore[attr-defined]
        if (models := self.fields.get("allowed_models")) is not None:
            names = sorted({*list_granted_models(team), *chosen})
            models.choices = [(name, name) for name in names]  # type: ignore[attr-defined]
            models.widget = FilteredSelectMultiple("models", is_stacked=False, choices=models.choices)  # type: ignore[attr-defined]
            models.help_text = (
                "None chosen: all that the team is granted, also later on."
                if names
                else "The team has not been granted any model yet."
            )

    def clean_ip_ranges(self) -> list[str]:
        """In their stored form; each that is wrong is named."""
        return normalise_ip_ranges(self.cleaned_data["ip_ranges"])

    def clean_expires_at(self) -> datetime | None:
        """Not in the past, unless it stays as it is."""
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now() and "expires_at" in self.changed_data:
            raise ValidationError("This moment has passed.")
        return expires_at

    def clean(self) -> dict[str, Any]:
        """One end or none."""
        super().clean()
        if self.cleaned_data.get("expires_at") and self.cleaned_data.get("never_expires"):
            self.add_error("never_expires", "Give a moment or choose never, not both.")
        return self.cleaned_data


class NewKeyForm(KeyForm):
    """A new key's. Its team was chosen on the page before."""

    team = forms.ModelChoiceField(Team.objects.all(), widget=forms.HiddenInput)

    class Meta(KeyForm.Meta):
        fields = ["team", *KeyForm.Meta.fields]

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        self.fields["expires_at"].help_text = f"In UTC. Empty: in {DEFAULT_KEY_LIFE.days} days."
        team = self.fields["team"]
        asked = self.data.get("team") if self.is_bound else self.get_initial_for_field(team, "team")
        try:
            chosen = team.clean(asked)
        except ValidationError:
            return  # and the form will say so
        self.offer_what_is_of(chosen)


class ExistingKeyForm(KeyForm):
    """An existing key's. Everything that may still change of it."""

    def __init__(self, *arguments: Any, **words: Any) -> None:
        super().__init__(*arguments, **words)
        if "expires_at" not in self.fields:  # the key has ended
            del self.fields["never_expires"]
        else:
            self.fields["expires_at"].help_text = "In UTC."
            self.fields["never_expires"].initial = self.instance.expires_at is None
        self.offer_what_is_of(self.instance.team, self.instance.allowed_models)

    def clean(self) -> dict[str, Any]:
        """An empty moment is not taken for never."""
        super().clean()
        given = self.cleaned_data.get("expires_at") or self.cleaned_data.get("never_expires")
        if "expires_at" in self.cleaned_data and not given and "expires_at" not in self.errors:
            self.add_error("expires_at", "Give a moment, or choose never.")
        return self.cleaned_data

    def changes(self) -> dict[str, Any]:
        """The changed fields as `change_key` takes them."""
        names = {"expires_at" if name == "never_expires" else name for name in self.changed_data}
        return {name: self.cleaned_data[name] for name in names}


class TeamChoiceForm(forms.Form):
    """Whose key it will be."""

    team = forms.ModelChoiceField(Team.objects.all())


class RotateForm(forms.Form):
    """How long the old key works beside the new one."""

    overlap = forms.TypedChoiceField(
        label="The old key ends",
        coerce=lambda hours: timedelta(hours=int(hours)),
        initial="24",
        choices=[
            ("0", "at once"),
            ("1", "in 1 hour"),
            ("24", "in 1 day"),
            ("72", "in 3 days"),
            ("168", "in 7 days"),
        ],
    )


class RevokeForm(forms.Form):
    """Why."""

    reason = forms.CharField(
        max_length=500,
        required=False,
        widget=forms.TextInput(attrs={"size": 60}),
        help_text="Kept with the key and in the trail. Never put a secret here.",
    )
