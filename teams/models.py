"""Who belongs to whom: departments, teams, applications, members, API keys."""

from datetime import datetime
from zoneinfo import available_timezones

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from teams.key_rules import (
    MOST_RULES,
    Endpoint,
    normalise_ip_ranges,
    normalise_model_names,
    normalise_scopes,
    normalise_tags,
    validate_tags,
)

validate_slug_name = RegexValidator(
    r"\A[a-z0-9][a-z0-9-]{0,62}\Z",
    "Use 1 to 63 lower-case letters, digits and hyphens; start with a letter or digit.",
)


def validate_time_zone(value: str) -> None:
    """Refuse a name that is not in the IANA time zone database."""
    if value not in available_timezones():
        raise ValidationError(f"{value!r} is not an IANA time zone, such as Europe/Berlin.")


class Department(models.Model):
    """A cost centre: budgets, statements and the store's counters are kept per department."""

    slug = models.CharField(max_length=63, unique=True, validators=[validate_slug_name])
    name = models.CharField(max_length=200)
    cost_centre = models.CharField(max_length=64, blank=True, help_text="The number finance books to.")
    time_zone = models.CharField(
        max_length=64, default="UTC", validators=[validate_time_zone], help_text="Of its budget windows."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(
                condition=Q(slug__regex=r"^[a-z0-9][a-z0-9-]{0,62}$"), name="department_slug_form"
            ),
            models.CheckConstraint(condition=~Q(name=""), name="department_name_given"),
        ]

    def __str__(self) -> str:
        return self.slug


class CountersAway(models.TextChoices):
    """What becomes of calls under a hard budget while the counters cannot be asked."""

    REFUSE = "refuse", "Refuse calls under a hard budget"
    ALLOW = "allow", "Let them in and count them afterwards"


class Reserve(models.TextChoices):
    """What a call holds of the budgets while it is under way."""

    MOST = "most", "The most that a call may come to"
    TYPICAL = "typical", "Of streams 1,000 tokens of answer at a time"


class Priority(models.TextChoices):
    """Whose calls go first of those that wait."""

    LOW = "low", "Low"
    NORMAL = "normal", "Normal"
    HIGH = "high", "High"


MOST_QUEUE_S = 300


def _tags(meaning: str) -> "ArrayField[list[str], list[str]]":
    base = models.CharField(max_length=32)
    return ArrayField(
        base, default=list, db_default=[], blank=True, help_text=meaning, validators=[validate_tags]
    )


class Team(models.Model):
    """The unit that is granted models and owns keys and applications."""

    department = models.ForeignKey(Department, on_delete=models.PROTECT, related_name="teams")
    slug = models.CharField(max_length=63, unique=True, validators=[validate_slug_name])
    name = models.CharField(max_length=200)
    is_active = models.BooleanField(default=True, help_text="An inactive team's keys are refused.")
    counters_away = models.CharField(
        "while the counters are away",
        max_length=16,
        choices=CountersAway,
        default=CountersAway.REFUSE,
        db_default=CountersAway.REFUSE.value,
        help_text="When the store of the counters is down, nothing says how much of a hard budget is left.",
    )
    reserve = models.CharField(
        "what calls hold",
        max_length=16,
        choices=Reserve,
        default=Reserve.MOST,
        db_default=Reserve.MOST.value,
        help_text="Less for each call lets more run at once; a stream ends early when the budget does.",
    )
    max_queue_s = models.PositiveSmallIntegerField(
        "longest wait (s)",
        default=0,
        db_default=0,
        validators=[MaxValueValidator(MOST_QUEUE_S)],
        help_text=(
            "How long a call may wait for room when it is too fast, or when calls under way hold the budget. "
            "0: it is refused at once."
        ),
    )
    priority = models.CharField(
        max_length=16,
        choices=Priority,
        default=Priority.NORMAL,
        db_default=Priority.NORMAL.value,
        help_text=(
            "Where teams wait for the same limit, of what comes free a team of high priority gets four times "
            "as much as one of normal priority, and that one four times as much as one of low priority."
        ),
    )
    required_tags = _tags("Its calls only go to backends that have all of these, also by fallback.")
    continues_streams = models.BooleanField(
        default=False,
        db_default=False,
        help_text="A streamed text whose backend breaks off is continued by another backend, where one can. The model "
        "is told what was said so far; the record says so.",
    )
    regions = _tags(
        "Of the backends of a group those in the first of these regions are preferred, in this order."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(
                condition=Q(slug__regex=r"^[a-z0-9][a-z0-9-]{0,62}$"), name="team_slug_form"
            ),
            models.CheckConstraint(condition=~Q(name=""), name="team_name_given"),
            models.CheckConstraint(
                condition=Q(counters_away__in=CountersAway.values), name="team_counters_away_known"
            ),
            models.CheckConstraint(condition=Q(reserve__in=Reserve.values), name="team_reserve_known"),
            models.CheckConstraint(
                condition=Q(max_queue_s__lte=MOST_QUEUE_S), name="team_max_queue_s_bounded"
            ),
            models.CheckConstraint(condition=Q(priority__in=Priority.values), name="team_priority_known"),
        ]

    def __str__(self) -> str:
        return self.slug


class Application(models.Model):
    """A program of a team; a cost dimension, and the owner of keys that belong to it."""

    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="applications")
    slug = models.CharField(max_length=63, validators=[validate_slug_name])
    name = models.CharField(max_length=200)
    required_tags = _tags("Its calls only go to backends that have all of these, besides those of its team.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["team__slug", "slug"]
        constraints = [
            models.UniqueConstraint(fields=["team", "slug"], name="application_slug_in_team"),
            # The other half of ApiKey's composite foreign key (see its migration).
            models.UniqueConstraint(fields=["id", "team"], name="application_id_team"),
            models.CheckConstraint(
                condition=Q(slug__regex=r"^[a-z0-9][a-z0-9-]{0,62}$"), name="application_slug_form"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.team.slug}/{self.slug}"


class Role(models.TextChoices):
    """What a member may do; the scope says where."""

    PLATFORM_ADMIN = "platform_admin", "Platform admin"
    SECURITY_AUDITOR = "security_auditor", "Security auditor"
    FINANCE = "finance", "Finance"
    DEPARTMENT_MANAGER = "department_manager", "Department manager"
    TEAM_OWNER = "team_owner", "Team owner"
    TEAM_MEMBER = "team_member", "Team member"
    VIEWER = "viewer", "Viewer"


PLATFORM_ROLES = (Role.PLATFORM_ADMIN, Role.SECURITY_AUDITOR, Role.FINANCE)
TEAM_ROLES = (Role.TEAM_OWNER, Role.TEAM_MEMBER, Role.VIEWER)


class Member(models.Model):
    """A person with a role: on the whole platform, in a department, or in a team."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=32, choices=Role)
    department = models.ForeignKey(
        Department, on_delete=models.CASCADE, null=True, blank=True, related_name="members"
    )
    team = models.ForeignKey(Team, on_delete=models.CASCADE, null=True, blank=True, related_name="members")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["user_id", "role"]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "role", "department", "team"], name="member_once", nulls_distinct=False
            ),
            models.CheckConstraint(
                name="member_scope_fits_role",
                condition=(
                    Q(role__in=PLATFORM_ROLES, department=None, team=None)
                    | Q(role=Role.DEPARTMENT_MANAGER, department__isnull=False, team=None)
                    | Q(role__in=TEAM_ROLES, department=None, team__isnull=False)
                ),
                violation_error_message=(
                    "Platform roles have no department or team; a department manager has a department; "
                    "team roles have a team."
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} as {self.get_role_display()}"


class KeyState(models.TextChoices):
    """Whether a key works, as far as the key itself says."""

    ACTIVE = "active", "Active"
    PAUSED = "paused", "Paused"
    EXPIRED = "expired", "Expired"
    REVOKED = "revoked", "Revoked"


def _rules(longest: int, meaning: str) -> "ArrayField[list[str], list[str]]":
    base = models.CharField(max_length=longest)
    return ArrayField(base, default=list, db_default=[], blank=True, help_text=meaning)


class ApiKey(models.Model):
    """What an application calls with. Only a keyed digest is stored; `hint` is all that can be shown again."""

    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="api_keys")
    application = models.ForeignKey(
        Application, on_delete=models.PROTECT, null=True, blank=True, related_name="api_keys"
    )
    name = models.CharField(max_length=200)
    digest = models.BinaryField(max_length=32, unique=True, editable=False)
    pepper_version = models.PositiveSmallIntegerField(editable=False)
    hint = models.CharField(max_length=32, editable=False, help_text="Prefix and last four characters.")
    scopes = _rules(16, "Endpoints it may call. Empty: all.")
    allowed_models = _rules(128, "Models it may use. Empty: all that the team is granted.")
    ip_ranges = _rules(43, "Where it may be used from, as CIDR. Empty: anywhere.")
    required_tags = _tags("Its calls only go to backends that have all of these, besides those of its team.")
    created_by = models.CharField(max_length=200, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    paused_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_reason = models.CharField(max_length=500, default="", db_default="", blank=True, editable=False)
    replaces = models.OneToOneField(
        "self",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        editable=False,
        related_name="replacement",
        help_text="The key this one was rotated from.",
    )

    class Meta:
        ordering = ["-id"]
        verbose_name = "API key"
        indexes = [
            # What the administration looks keys up and sorts them by.
            models.Index(fields=["hint"], name="apikey_hint"),
            models.Index(fields=["name", "-id"], name="apikey_name"),
            models.Index(fields=["expires_at", "-id"], name="apikey_expires_at"),
        ]
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="apikey_name_given"),
            models.CheckConstraint(
                condition=Q(expires_at=None) | Q(expires_at__gt=F("created_at")),
                name="apikey_expires_after_creation",
            ),
            models.CheckConstraint(
                condition=Q(scopes__contained_by=list(Endpoint.values)), name="apikey_scopes_known"
            ),
            # The form of the names and ranges themselves is checked in SQL (see their migration).
            models.CheckConstraint(
                condition=Q(allowed_models__len__lte=MOST_RULES, ip_ranges__len__lte=MOST_RULES),
                name="apikey_rules_bounded",
            ),
            models.CheckConstraint(
                condition=Q(revoked_reason="") | Q(revoked_at__isnull=False),
                name="apikey_reason_of_a_revocation",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint})"

    def state_at(self, moment: datetime) -> KeyState:
        """Whether it works at `moment`; what ends it for good is said before what only stops it."""
        if self.revoked_at is not None:
            return KeyState.REVOKED
        if self.expires_at is not None and self.expires_at <= moment:
            return KeyState.EXPIRED
        return KeyState.ACTIVE if self.paused_at is None else KeyState.PAUSED

    def clean(self) -> None:
        """Put the rules into their stored form; the application must be one of the team's (the database checks
        both too)."""
        errors: dict[str, ValidationError] = {}
        if self.application is not None and self.application.team_id != self.team_id:
            errors["application"] = ValidationError("This application belongs to another team.")
        for field, normalise in (
            ("scopes", normalise_scopes),
            ("allowed_models", normalise_model_names),
            ("ip_ranges", normalise_ip_ranges),
            ("required_tags", normalise_tags),
        ):
            try:
                setattr(self, field, normalise(getattr(self, field)))
            except ValidationError as error:
                errors[field] = error
        if errors:
            raise ValidationError(errors)


class ApiKeyUse(models.Model):
    """When and from where a key was last used: apart from the key, for it is written all the time."""

    key = models.OneToOneField(ApiKey, on_delete=models.CASCADE, primary_key=True, related_name="use")
    last_used_at = models.DateTimeField()
    last_used_ip = models.GenericIPAddressField(null=True, blank=True)

    class Meta:
        verbose_name = "use of an API key"
        verbose_name_plural = "uses of API keys"

    def __str__(self) -> str:
        return f"{self.key_id} at {self.last_used_at:%Y-%m-%d %H:%M:%S}"


class ConfigurationVersion(models.Model):
    """One row whose number rises, by trigger, with every change that gateway workers must hear of."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    version = models.BigIntegerField(default=1)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="configurationversion_one_row")]

    def __str__(self) -> str:
        return f"version {self.version}"


class KeyChange(models.Model):
    """A line of the log that tells workers which keys to look up again. Only triggers write it (key_changes.py).

    `xact` is the number of the transaction that made the change.
    """

    kind = models.CharField(max_length=16)
    object_id = models.BigIntegerField(null=True)
    xact = models.BigIntegerField(db_index=True)
    at = models.DateTimeField()

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=["created", "everything"], object_id=None)
                | Q(kind__in=["key", "team"], object_id__isnull=False),
                name="keychange_object_fits_kind",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.object_id or ''}".strip()
