"""Departments, teams and applications."""

from gateway_site.configuration_file.forms import Flag, ListOf, OneOf, Reference, Text, Whole
from gateway_site.configuration_file.kinds.base import RowKind
from gateway_site.configuration_file.schema import Field
from teams.models import Application, CountersAway, Department, Priority, Reserve, Team


class Departments(RowKind):
    """Cost centres."""

    section = "departments"
    noun = "department"
    model = Department
    identity = ("slug",)
    fields = (
        Field("slug", Text(), "Its short name."),
        Field("name", Text(), "Its name for people.", is_needed=True),
        Field("cost_centre", Text(), "The number finance books to."),
        Field("time_zone", Text(), "Of its budget windows, such as `Europe/Berlin`. A new one has `UTC`."),
    )


class Teams(RowKind):
    """Teams of departments."""

    section = "teams"
    noun = "team"
    model = Team
    identity = ("slug",)
    paths = {"department": "department__slug"}
    fields = (
        Field("slug", Text(), "Its short name."),
        Field("department", Reference("departments"), "Whose team it is.", is_needed=True),
        Field("name", Text(), "Its name for people.", is_needed=True),
        Field("is_active", Flag(), "`false`: its keys are refused."),
        Field(
            "counters_away",
            OneOf(CountersAway.values),
            "Calls under a hard budget while the counters cannot be asked: refused, or let in and counted afterwards.",
        ),
        Field(
            "reserve",
            OneOf(Reserve.values),
            "What a call holds of budgets: the most it may come to, or of a stream 1,000 tokens of answer at a time.",
        ),
        Field(
            "max_queue_s",
            Whole(),
            "How long a call may wait for room, in seconds, at most 300. 0, which a new one has: not at all.",
        ),
        Field(
            "priority",
            OneOf(Priority.values),
            "Whose calls go first of those that wait. A new one has `normal`.",
        ),
        Field("required_tags", ListOf(Text()), "Its calls only go to backends that have all of these."),
        Field(
            "continues_streams",
            Flag(),
            "`true`: a streamed text whose backend breaks off is continued by another.",
        ),
        Field(
            "regions",
            ListOf(Text(), is_ordered=True),
            "Of a group's backends those in the first of these are preferred.",
        ),
    )


class Applications(RowKind):
    """Applications of teams."""

    section = "applications"
    noun = "application"
    model = Application
    identity = ("team", "slug")
    paths = {"team": "team__slug"}
    fields = (
        Field("team", Reference("teams"), "Whose application it is; it stays with that team."),
        Field("slug", Text(), "Its short name within the team."),
        Field("name", Text(), "Its name for people.", is_needed=True),
        Field("required_tags", ListOf(Text()), "Its calls only go to backends that have all of these, too."),
    )

    def known_names(self) -> set[str]:
        """None: applications are named within their team."""
        return set()
