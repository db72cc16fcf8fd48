"""When backends are left alone."""

from gateway_site.configuration_file.forms import Reference, Text, Whole
from gateway_site.configuration_file.kinds.base import RowKind
from gateway_site.configuration_file.schema import Field
from routing.models import BreakerRule


class BreakerRules(RowKind):
    """Rules of the breakers of backends. A backend without any has the usual one."""

    section = "breaker_rules"
    noun = "breaker rule"
    model = BreakerRule
    identity = ("backend", "name")
    paths = {"backend": "backend__name"}
    fields = (
        Field("backend", Reference("backends"), "The backend that is left alone."),
        Field("name", Text(), "The rule's name, one of this backend's: a-z, 0-9 and hyphens."),
        Field("failures", Whole(), "It trips when at least so many calls failed. A new one has 5."),
        Field("percent", Whole(), "And at least so many of a hundred; 0: any share. A new one has 50."),
        Field("interval_s", Whole(), "Within so many seconds. A new one has 10."),
        Field("trip_s", Whole(), "Seconds that it is left alone at first. A new one has 10."),
        Field("statuses", Text(), "Which answers are failures: `0, 429, 500-599`; 0 is no answer."),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to a rule."""
        return set()
