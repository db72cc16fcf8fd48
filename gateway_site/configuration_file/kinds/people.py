"""People and their roles. Passwords are taken and never told; what a person may do follows from the roles."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import User
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from audit.admin_trail import record_addition
from gateway_site.configuration_file.faults import Fault
from gateway_site.configuration_file.forms import Flag, OneOf, Reference, Secret, Text
from gateway_site.configuration_file.kinds.base import Difference, Row, RowKind
from gateway_site.configuration_file.schema import Entry, Field
from teams.models import PLATFORM_ROLES, TEAM_ROLES, Member, Role


class People(RowKind):
    """Accounts."""

    section = "people"
    noun = "person"
    model = User
    identity = ("username",)
    may_be_absent = False
    why_never_absent = "a person is not removed, for the trail names them; write is_active: false"
    fields = (
        Field("username", Text(), "The name to sign in with."),
        Field("email", Text(), "The e-mail address."),
        Field("first_name", Text(), "First name."),
        Field("last_name", Text(), "Last name."),
        Field("is_active", Flag(), "`false`: the account is closed."),
        Field(
            "password",
            Secret(),
            "Stored as a hash. Not given: kept; of a new person none can sign in with.",
            is_exported=False,
        ),
    )

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """A new name must not be another's in other letters."""
        if row is None and (other := _same_name(entry.values["username"])):
            yield entry.fault(
                f"username: {other} is there already; names that differ in case are one name", "username"
            )

    def compare(self, entry: Entry, row: Row) -> dict[str, Difference]:
        """A password differs when it does not open the stored hash."""
        differences = super().compare(entry, row)
        password = entry.values.get("password")
        if password is not None and not check_password(password, row.target.password):
            had_one = row.target.has_usable_password()
            differences["password"] = ("set", "replaced") if had_one else ("not set", "set")
        return differences

    def assign(self, target: User, values: Mapping[str, Any]) -> list[str]:
        """Hash the password, having checked it by the rules for passwords."""
        rest = {name: value for name, value in values.items() if name != "password"}
        names = super().assign(target, rest)
        if (password := values.get("password")) is not None:
            _check_password(password, target)
            target.set_password(password)
            names.append("password")
        elif not target.pk:
            target.set_unusable_password()
        return names


def _same_name(username: str) -> str | None:
    """The name of somebody who is called so in other letters."""
    others = User.objects.filter(username__iexact=username).exclude(username=username)
    return others.values_list("username", flat=True).first()


def _check_password(password: str, user: User) -> None:
    try:
        validate_password(password, user)
    except ValidationError as error:
        raise ValidationError({"password": error.messages}) from None


class Members(RowKind):
    """Roles of people: on the platform, in a department, or in a team."""

    section = "members"
    noun = "member"
    model = Member
    identity = ("user", "role", "department", "team")
    paths = {"user": "user__username", "department": "department__slug", "team": "team__slug"}
    fields = (
        Field("user", Text(), "The person's user name. Who is not there is made, without a password."),
        Field("role", OneOf(Role.values), "What the person may do."),
        Field("department", Reference("departments"), "Where, of a department manager.", is_nullable=True),
        Field("team", Reference("teams"), "Where, of the roles in a team.", is_nullable=True),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to a member."""
        return set()

    def check(self, entry: Entry, row: Row | None) -> Iterator[Fault]:
        """The scope must fit the role (the database checks it too)."""
        role = entry.values["role"]
        needed = "" if role in PLATFORM_ROLES else "team" if role in TEAM_ROLES else "department"
        given = {name for name in ("department", "team") if entry.values.get(name) is not None}
        if row is None and not entry.is_absent and (other := _same_name(entry.values["user"])):
            yield entry.fault(f"user: this person is called {other}", "user")
        if given != {needed} - {""}:
            told = f"a {needed} and nothing else" if needed else "neither department nor team"
            yield entry.fault(f"the role {role} needs {told}", "role")

    def notes(self, entry: Entry, row: Row | None) -> Iterable[str]:
        """Who is about to be made."""
        username = entry.values["user"]
        if row is None and not entry.is_absent and not User.objects.filter(username=username).exists():
            yield f"{username} is a new person without a password"

    def add(self, entry: Entry, actor: str) -> None:
        """The person too, if need be."""
        username = entry.values["user"]
        if not User.objects.filter(username=username).exists():
            person = User(username=username)
            person.set_unusable_password()
            try:
                person.full_clean()
            except ValidationError as error:
                raise ValidationError({"user": error.messages}) from None
            person.save()
            record_addition(actor, person)
        super().add(entry, actor)

    def change(self, entry: Entry, row: Row, names: Sequence[str], actor: str) -> None:
        """Never: all fields are the identity."""
        raise AssertionError("a membership has no field beside its identity")
