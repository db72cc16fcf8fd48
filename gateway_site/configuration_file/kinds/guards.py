"""Guard policies, their rules, whom they apply to, and recognisers."""

from gateway_site.configuration_file.forms import Flag, ListOf, OneOf, Reference, Text, Whole
from gateway_site.configuration_file.kinds.base import RowKind
from gateway_site.configuration_file.kinds.called import CREDENTIAL, CalledKind
from gateway_site.configuration_file.schema import Field
from guards.checksums import CHECKSUMS
from guards.external_models import ExternalForm, ExternalGuard
from guards.models import (
    Finds,
    GuardAct,
    GuardKind,
    GuardPolicy,
    GuardRule,
    LooksAt,
    PolicyTeam,
    Recogniser,
    Streams,
)


class Recognisers(RowKind):
    """What the company itself looks for."""

    section = "recognisers"
    noun = "recogniser"
    model = Recogniser
    identity = ("name",)
    fields = (
        Field("name", Text(), "a-z, 0-9 and hyphens."),
        Field("type", Text(), "What it finds, as rules list it: `EMPLOYEE_ID`.", is_needed=True),
        Field("guard", OneOf(Finds.values), "The guard that it is for. A new one is for `pii`."),
        Field("pattern", Text(), "An expression. It may not look around itself."),
        Field("keywords", ListOf(Text()), "In place of an expression: words or phrases, in whatever case."),
        Field("examples", ListOf(Text()), "Of a topic, in place of both: texts about it."),
        Field("ignores_case", Flag(), "`true`: capital letters make no difference."),
        Field("words", ListOf(Text()), "One of them must stand within 100 characters. Empty: nothing need."),
        Field("checksum", OneOf(["", *CHECKSUMS]), 'What the digits must satisfy. "": nothing.'),
        Field("score_percent", Whole(), "How sure a finding is, 0 to 100. A new one has 80."),
        Field("is_active", Flag(), "`false`: it is not looked for."),
    )


class ExternalGuards(CalledKind):
    """Services elsewhere that policies may name."""

    section = "external_guards"
    noun = "external guard"
    model = ExternalGuard
    identity = ("name",)
    fields = (
        Field("name", Text(), "The kind of its findings, as rules list it: `LAKERA`."),
        Field("form", OneOf(ExternalForm.values), "Which service it is.", is_needed=True),
        Field("base_url", Text(), "Its address. A stored credential belongs to its host.", is_needed=True),
        Field(
            "setting", Text(), "Lakera: a project's id. Guardrails: the guard's name. Moderation: the model."
        ),
        *CREDENTIAL,
        Field("timeout_ms", Whole(), "Milliseconds for each question. A new one has 2000."),
        Field("is_active", Flag(), "`false`: it cannot look."),
    )


class GuardPolicies(RowKind):
    """What is looked for in calls, and what is done about it."""

    section = "guard_policies"
    noun = "guard policy"
    model = GuardPolicy
    identity = ("name",)
    fields = (
        Field("name", Text(), "a-z, 0-9 and hyphens."),
        Field("description", Text(), "For people."),
        Field("is_default", Flag(), "`true`: it applies to every team that has none of its own."),
        Field(
            "streams",
            OneOf(Streams.values),
            "`hold`: streamed answers are looked through before they are passed on. `cut`: they end at a finding.",
        ),
    )


class GuardRules(RowKind):
    """The guards of the policies. A guard without a rule does not look."""

    section = "guard_rules"
    noun = "guard rule"
    model = GuardRule
    identity = ("policy", "looks_at", "guard")
    paths = {"policy": "policy__name"}
    fields = (
        Field("policy", Reference("guard_policies"), "The policy that it belongs to."),
        Field("looks_at", OneOf(LooksAt.values), "What it looks through."),
        Field("guard", OneOf(GuardKind.values), "Which guard looks."),
        Field("act", OneOf(GuardAct.values), "What is done about a finding. A new one has `observe`."),
        Field(
            "types",
            ListOf(Text()),
            "What it looks for. Empty: the usual kinds, and all of your own content and topics.",
        ),
        Field(
            "threshold_percent",
            Whole(),
            "Findings that are less sure are none. Null: 80 for `injection`, 60 for `leak`, 50 for `topics`, else 0.",
            is_nullable=True,
        ),
        Field("fails_open", Flag(), "`true`: when the guard cannot look, the call passes."),
        Field("restores", Flag(), "`true`: values are put back in the answer. A new one has `true`."),
        Field("tags", ListOf(Text()), "What a backend must have to serve a request with a finding."),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to a rule."""
        return set()


class PolicyTeams(RowKind):
    """Which policies apply to teams in place of the default."""

    section = "policy_teams"
    noun = "team under a policy"
    model = PolicyTeam
    identity = ("team",)
    paths = {"team": "team__slug", "policy": "policy__name"}
    fields = (
        Field("team", Reference("teams"), "The team."),
        Field("policy", Reference("guard_policies"), "The policy that applies to it.", is_needed=True),
    )

    def known_names(self) -> set[str]:
        """None: nothing refers to it."""
        return set()
