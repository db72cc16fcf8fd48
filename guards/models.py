"""What administrators say about guards: policies, who falls under which, and recognisers of their own."""

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from guards.checksums import CHECKSUMS
from guards.custom import Custom
from guards.expressions import ExpressionError, check_expression
from guards.finding import VALUES, Guard
from guards.policy import KNOWN, USUAL, USUAL_THRESHOLD, Act, Rule

_TYPE = RegexValidator(r"\A[A-Z][A-Z0-9_]{0,63}\Z", "Use A-Z, 0-9 and underscores, as EMPLOYEE_ID.")
_NAME = RegexValidator(r"\A[a-z0-9][a-z0-9-]*\Z", "Use a-z, 0-9 and hyphens.")


class GuardKind(models.TextChoices):
    """The guards that a policy can use (guards.finding.Guard)."""

    PII = Guard.PII.value, "Personal data"
    SECRETS = Guard.SECRETS.value, "Secrets"
    INJECTION = Guard.INJECTION.value, "Prompt injection"
    TOXICITY = Guard.TOXICITY.value, "Toxic language"


class GuardAct(models.TextChoices):
    """What is done about a finding (guards.policy.Act)."""

    OBSERVE = Act.OBSERVE.value, "Observe: note it"
    REDACT = Act.REDACT.value, "Redact: put a placeholder there"
    BLOCK = Act.BLOCK.value, "Block: refuse the call"


class GuardPolicy(models.Model):
    """What is looked for in the calls of the teams that it applies to, and what is done about it."""

    name = models.CharField(max_length=64, unique=True, validators=[_NAME])
    description = models.TextField(blank=True)
    is_default = models.BooleanField(
        default=False,
        help_text="It applies to every team that has no policy of its own. One policy can be that.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "guard policies"
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"],
                condition=Q(is_default=True),
                name="guardpolicy_one_default",
                violation_error_message="Another policy is the default.",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class GuardRule(models.Model):
    """One guard of a policy. A guard without a rule does not look."""

    policy = models.ForeignKey(GuardPolicy, on_delete=models.CASCADE, related_name="rules")
    guard = models.CharField(max_length=16, choices=GuardKind)
    act = models.CharField("action", max_length=16, choices=GuardAct, default=GuardAct.OBSERVE)
    types = ArrayField(
        models.CharField(max_length=64),
        default=list,
        blank=True,
        help_text="What it looks for, such as EMAIL_ADDRESS, PHONE_NUMBER. Empty: the usual kinds.",
    )
    threshold_percent = models.PositiveSmallIntegerField(
        "threshold (%)",
        null=True,
        blank=True,
        validators=[MaxValueValidator(100)],
        help_text="Findings that are less sure, 0 to 100, are none. Empty: 80 for prompt injection, else 0. "
        "To block prompt injection, 95 is advised.",
    )
    fails_open = models.BooleanField(
        default=False,
        help_text="When the guard cannot look, let the call pass and note that. Else the call is refused.",
    )
    restores = models.BooleanField(
        default=True, help_text="Put the values back in the answer where the model uses the placeholder."
    )

    class Meta:
        ordering = ["policy__name", "guard"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "guard"], name="guardrule_once"),
            models.CheckConstraint(
                condition=Q(threshold_percent=None) | Q(threshold_percent__lte=100),
                name="guardrule_threshold_bounded",
            ),
            models.CheckConstraint(
                condition=Q(guard__in=GuardKind.values, act__in=GuardAct.values), name="guardrule_known"
            ),
            models.CheckConstraint(
                condition=~Q(act=GuardAct.REDACT) | Q(guard__in=sorted(VALUES)),
                name="guardrule_redacts",
                violation_error_message="It speaks of a text as a whole, which cannot be redacted.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_guard_display()} of {self.policy}"

    def clean(self) -> None:
        """Raises ValidationError for a kind that nothing looks for."""
        own = Recogniser.objects.filter(type__in=self.types).values_list("type", flat=True)
        if unknown := sorted(set(self.types) - known_types(self.guard) - set(own)):
            known = ", ".join(sorted(known_types(self.guard)))
            raise ValidationError({"types": f"Nothing looks for {', '.join(unknown)}. There are: {known}."})

    def to_rule(self) -> Rule:
        """As it is applied."""
        return Rule(
            act=Act(self.act),
            types=frozenset(self.types or USUAL[Guard(self.guard)]),
            threshold=USUAL_THRESHOLD[Guard(self.guard)]
            if self.threshold_percent is None
            else self.threshold_percent / 100,
            fails_open=self.fails_open,
            restores=self.restores,
        )


class PolicyTeam(models.Model):
    """A policy applies to a team, in place of the default."""

    team = models.OneToOneField("teams.Team", on_delete=models.CASCADE, related_name="guard_policy")
    policy = models.ForeignKey(GuardPolicy, on_delete=models.CASCADE, related_name="teams")

    class Meta:
        ordering = ["team__slug"]
        verbose_name = "team under a policy"
        verbose_name_plural = "teams under a policy"

    def __str__(self) -> str:
        return f"{self.team} under {self.policy}"


class Recogniser(models.Model):
    """Something of the company's own that is looked for, such as its numbers of employees."""

    name = models.CharField(max_length=64, unique=True, validators=[_NAME])
    type = models.CharField(
        max_length=64, validators=[_TYPE], help_text="What it finds, as rules list it: EMPLOYEE_ID."
    )
    pattern = models.CharField(
        max_length=500,
        help_text="An expression, such as EMP-[0-9]{6}. It may not look around itself, nor match the empty text.",
    )
    ignores_case = models.BooleanField(default=False)
    words = ArrayField(
        models.CharField(max_length=64),
        default=list,
        blank=True,
        help_text="One of them must stand within 100 characters. Empty: nothing need.",
    )
    checksum = models.CharField(
        max_length=16, blank=True, default="", choices=[(name, name) for name in CHECKSUMS]
    )
    score_percent = models.PositiveSmallIntegerField(
        "score (%)",
        default=80,
        validators=[MaxValueValidator(100)],
        help_text="How sure a finding is, 0 to 100.",
    )
    is_active = models.BooleanField(default=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(condition=Q(score_percent__lte=100), name="recogniser_score_bounded"),
            models.CheckConstraint(
                condition=Q(type__regex=r"^[A-Z][A-Z0-9_]*$"), name="recogniser_type_form"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError for an expression that cannot be used, or a type that is already found otherwise."""
        try:
            check_expression(self.pattern)
        except ExpressionError as error:
            raise ValidationError({"pattern": str(error)}) from None
        if self.type in known_types(Guard.SECRETS):
            raise ValidationError({"type": f"{self.type} is a kind of secret: choose another name."})

    def to_custom(self) -> Custom:
        """As the scanner takes it."""
        return Custom(
            name=self.name,
            type=self.type,
            pattern=self.pattern,
            ignores_case=self.ignores_case,
            words=tuple(self.words),
            checksum=self.checksum,
            score=self.score_percent / 100,
        )


def known_types(guard: str) -> set[str]:
    """What a guard can look for by itself."""
    return set(KNOWN[Guard(guard)])
