"""Who belongs to whom: departments, teams, applications, members, API keys."""

from zoneinfo import available_timezones

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import F, Q

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


class Team(models.Model):
    """The unit that is granted models and owns keys and applications."""

    department = models.ForeignKey(Department, on_delete=models.PROTECT, related_name="teams")
    slug = models.CharField(max_length=63, unique=True, validators=[validate_slug_name])
    name = models.CharField(max_length=200)
    is_active = models.BooleanField(default=True, help_text="An inactive team's keys are refused.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["slug"]
        constraints = [
            models.CheckConstraint(
                condition=Q(slug__regex=r"^[a-z0-9][a-z0-9-]{0,62}$"), name="team_slug_form"
            ),
            models.CheckConstraint(condition=~Q(name=""), name="team_name_given"),
        ]

    def __str__(self) -> str:
        return self.slug


class Application(models.Model):
    """A program of a team; a cost dimension, and the owner of keys that belong to it."""

    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="applications")
    slug = models.CharField(max_length=63, validators=[validate_slug_name])
    name = models.CharField(max_length=200)
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
    created_by = models.CharField(max_length=200, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True, help_text="Empty: never.")
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["-id"]
        verbose_name = "API key"
        constraints = [
            models.CheckConstraint(condition=~Q(name=""), name="apikey_name_given"),
            models.CheckConstraint(
                condition=Q(expires_at=None) | Q(expires_at__gt=F("created_at")),
                name="apikey_expires_after_creation",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.hint})"

    def clean(self) -> None:
        """The application, if any, must be one of the team's (the database checks it too)."""
        if self.application is not None and self.application.team_id != self.team_id:
            raise ValidationError({"application": "This application belongs to another team."})


class ConfigurationVersion(models.Model):
    """One row whose number rises, by trigger, with every change that gateway workers must hear of."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    version = models.BigIntegerField(default=1)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="configurationversion_one_row")]

    def __str__(self) -> str:
        return f"version {self.version}"
