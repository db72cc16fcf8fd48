"""What administrators say about guards: policies, who falls under which, and recognisers of their own."""

from collections.abc import Collection, Mapping

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import Q

from guards.checksums import CHECKSUMS
from guards.custom import Custom
from guards.expressions import ExpressionError
from guards.external_models import KIND, ExternalGuard
from guards.finding import REDACTABLE, Guard
from guards.policy import KNOWN, OWN_KINDS, USUAL, USUAL_THRESHOLD, Act, Rule, Side
from guards.topics import Topic
from teams.key_rules import normalise_tags, validate_tags

_NAME = RegexValidator(r"\A[a-z0-9][a-z0-9-]*\Z", "Use a-z, 0-9 and hyphens.")


class GuardKind(models.TextChoices):
    """The guards that a policy can use (guards.finding.Guard)."""

    PII = Guard.PII.value, "Personal data"
    SECRETS = Guard.SECRETS.value, "Secrets"
    INJECTION = Guard.INJECTION.value, "Prompt injection"
    TOXICITY = Guard.TOXICITY.value, "Toxic language"
    CONTENT = Guard.CONTENT.value, "Content"
    TOPICS = Guard.TOPICS.value, "Topics"
    REQUIRED = Guard.REQUIRED.value, "Required content"
    SCHEMA = Guard.SCHEMA.value, "JSON schema"
    LEAK = Guard.LEAK.value, "System's message"
    EXTERNAL = Guard.EXTERNAL.value, "External guards"


class LooksAt(models.TextChoices):
    """What a guard looks through (guards.policy.Side)."""

    REQUEST = Side.REQUEST.value, "Requests"
    ANSWER = Side.ANSWER.value, "Answers"


class Streams(models.TextChoices):
    """What becomes of a streamed answer meanwhile."""

    HOLD = "hold", "Hold: each piece is looked through before it is passed on"
    CUT = "cut", "Cut: pieces are passed on, and the stream ends at a finding"


class GuardAct(models.TextChoices):
    """What is done about a finding (guards.policy.Act)."""

    OBSERVE = Act.OBSERVE.value, "Observe"
    REDACT = Act.REDACT.value, "Redact"
    BLOCK = Act.BLOCK.value, "Block"


class GuardPolicy(models.Model):
    """What is looked for in the calls of the teams that it applies to, and what is done about it."""

    name = models.CharField(max_length=64, unique=True, validators=[_NAME])
    description = models.TextField(blank=True)
    is_default = models.BooleanField(
        default=False,
        help_text="It applies to every team that has no policy of its own. One policy can be that.",
    )
    streams = models.CharField(
        "streamed answers",
        max_length=8,
        choices=Streams,
        default=Streams.HOLD,
        db_default=Streams.HOLD,
        help_text="Where something is to be redacted or required, they are held in any case.",
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
            models.CheckConstraint(condition=Q(streams__in=Streams.values), name="guardpolicy_streams_known"),
        ]

    def __str__(self) -> str:
        return self.name


class GuardRule(models.Model):
    """One guard of a policy, on one side. A guard without a rule does not look."""

    policy = models.ForeignKey(GuardPolicy, on_delete=models.CASCADE, related_name="rules")
    looks_at = models.CharField(
        max_length=8, choices=LooksAt, default=LooksAt.REQUEST, db_default=LooksAt.REQUEST
    )
    guard = models.CharField(max_length=16, choices=GuardKind)
    act = models.CharField(
        "action",
        max_length=16,
        choices=GuardAct,
        default=GuardAct.OBSERVE,
        help_text="Observe: note it. Redact: put a placeholder there. Block: refuse the call, or stop the answer.",
    )
    types = ArrayField(
        models.CharField(max_length=64),
        default=list,
        blank=True,
        help_text="What it looks for, such as EMAIL_ADDRESS, PHONE_NUMBER. Empty: the usual kinds; of content and "
        "topics: all that are active.",
    )
    threshold_percent = models.PositiveSmallIntegerField(
        "threshold (%)",
        null=True,
        blank=True,
        validators=[MaxValueValidator(100)],
        help_text="Findings that are less sure, 0 to 100, are none. Empty: 80 for prompt injection, 60 for text of the "
        "system's message, 50 for topics, else 0. To block prompt injection, 95 is advised.",
    )
    fails_open = models.BooleanField(
        default=False,
        help_text="When the guard cannot look, let the call pass and note that. Else the call is refused.",
    )
    restores = models.BooleanField(
        default=True, help_text="Put the values back in the answer where the model uses the placeholder."
    )

    tags = ArrayField(
        models.CharField(max_length=32),
        default=list,
        db_default=[],
        blank=True,
        validators=[validate_tags],
        help_text="A request with a finding only goes to backends that have all of these, also by fallback.",
    )

    class Meta:
        ordering = ["policy__name", "-looks_at", "guard"]
        constraints = [
            models.UniqueConstraint(fields=["policy", "looks_at", "guard"], name="guardrule_once"),
            models.CheckConstraint(
                condition=Q(threshold_percent=None) | Q(threshold_percent__lte=100),
                name="guardrule_threshold_bounded",
            ),
            models.CheckConstraint(
                condition=Q(guard__in=GuardKind.values, act__in=GuardAct.values, looks_at__in=LooksAt.values),
                name="guardrule_known",
            ),
            models.CheckConstraint(
                condition=~Q(guard=GuardKind.INJECTION, looks_at=LooksAt.ANSWER)
                & ~Q(
                    guard__in=[GuardKind.REQUIRED, GuardKind.SCHEMA, GuardKind.LEAK], looks_at=LooksAt.REQUEST
                ),
                name="guardrule_side",
                violation_error_message="Prompt injection is looked for in requests; what must be there, a schema and "
                "the text of the system's message in answers.",
            ),
            models.CheckConstraint(
                condition=Q(tags=[]) | Q(looks_at=LooksAt.REQUEST),
                name="guardrule_tags",
                violation_error_message="Tags are for requests: an answer has its backend.",
            ),
            models.CheckConstraint(
                condition=~Q(act=GuardAct.REDACT) | Q(guard__in=sorted(each.value for each in REDACTABLE)),
                name="guardrule_redacts",
                violation_error_message="It speaks of a text as a whole, which cannot be redacted.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_guard_display()} ({self.looks_at}) of {self.policy}"

    def clean(self) -> None:
        """Raises ValidationError for a kind that nothing looks for."""
        if self.guard not in GuardKind.values:
            return  # the field itself says so
        own = set(own_types(self.guard))
        known = sorted(known_types(self.guard) | own)
        if unknown := sorted(set(self.types) - set(known)):
            told = f"There are: {', '.join(known)}." if known else "There are none: add one first."
            raise ValidationError({"types": f"Nothing looks for {', '.join(unknown)}. {told}"})
        if self.guard == GuardKind.REQUIRED and not self.types:
            raise ValidationError({"types": "Name what must be there."})
        if self.guard == GuardKind.EXTERNAL and not self.types:
            raise ValidationError({"types": "Name the external guards to ask."})
        self.tags = normalise_tags(self.tags)

    def to_rule(self, own: Mapping[Guard, Collection[str]]) -> Rule:
        """As it is applied; `own` are the administrators' active kinds, by the guard that finds them."""
        guard = Guard(self.guard)
        mine = own.get(OWN_KINDS.get(guard, guard), ())
        types = frozenset(self.types or USUAL[guard] or mine)
        return Rule(
            act=Act(self.act),
            types=types,
            missing=types - known_types(guard) - {*mine},
            threshold=USUAL_THRESHOLD.get(guard, 0.0)
            if self.threshold_percent is None
            else self.threshold_percent / 100,
            fails_open=self.fails_open,
            restores=self.restores and self.looks_at == LooksAt.REQUEST,
            tags=frozenset(self.tags),
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


class Finds(models.TextChoices):
    """What a recogniser is for: the guard that uses it."""

    PII = Guard.PII.value, "Personal data"
    CONTENT = Guard.CONTENT.value, "Content: words and expressions"
    TOPICS = Guard.TOPICS.value, "A topic, by examples"


class Recogniser(models.Model):
    """Something of the company's own that is looked for: its numbers of employees, names of projects, topics. It goes
    by one of `pattern`, `keywords` and `examples`."""

    name = models.CharField(max_length=64, unique=True, validators=[_NAME])
    type = models.CharField(
        max_length=64, validators=[KIND], help_text="What it finds, as rules list it: EMPLOYEE_ID."
    )
    guard = models.CharField("finds", max_length=16, choices=Finds, default=Finds.PII, db_default=Finds.PII)
    pattern = models.CharField(
        max_length=500,
        blank=True,
        default="",
        help_text="An expression, such as EMP-[0-9]{6}. It may not look around itself, nor match the empty text.",
    )
    keywords = ArrayField(
        models.CharField(max_length=128),
        default=list,
        db_default=[],
        blank=True,
        size=500,
        help_text="In place of an expression: words or phrases, of which any is found, in whatever case.",
    )
    examples = ArrayField(
        models.TextField(max_length=1000),
        default=list,
        db_default=[],
        blank=True,
        size=200,
        help_text="Of a topic: texts about it. Ten or more do better than a few.",
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
            models.CheckConstraint(
                condition=Q(guard__in=[Finds.PII, Finds.CONTENT], examples=[], pattern="") & ~Q(keywords=[])
                | Q(guard__in=[Finds.PII, Finds.CONTENT], examples=[], keywords=[]) & ~Q(pattern="")
                | Q(guard=Finds.TOPICS, pattern="", keywords=[]) & ~Q(examples=[]),
                name="recogniser_one_way",
                violation_error_message="Give an expression or keywords; for a topic examples, and nothing else.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raises ValidationError for an expression that cannot be used, or a type that is already found otherwise."""
        for name, texts in (("keywords", self.keywords), ("examples", self.examples)):
            if any(not text.strip() for text in texts):
                raise ValidationError({name: "One of them is empty."})
        try:
            if self.pattern or self.keywords:
                self.to_custom().check()
        except ExpressionError as error:
            raise ValidationError({"pattern" if self.pattern else "keywords": str(error)}) from None
        if left := self._leaves():
            raise ValidationError(left)
        taken = {kind for guard in Guard if guard != self.guard for kind in KNOWN[guard]}
        if self.type in taken | (set() if self.guard == Finds.PII else set(KNOWN[Guard.PII])):
            raise ValidationError({"type": f"{self.type} is found otherwise: choose another name."})

    def _leaves(self) -> str:
        """Which rules would list what nobody finds any more, once this is saved; empty for none."""
        before = Recogniser.objects.filter(pk=self.pk, is_active=True).first()
        if before is None or (self.is_active and (self.type, self.guard) == (before.type, before.guard)):
            return ""
        others = Recogniser.objects.exclude(pk=self.pk).filter(is_active=True)
        if others.filter(type=before.type, guard=before.guard).exists():
            return ""
        policies = _policies_with(before.type, before.guard)
        return f"{before.type} is listed by rules of {policies}: take it out first." if policies else ""

    def to_custom(self) -> Custom:
        """As the scanner takes one that is no topic."""
        return Custom(
            name=self.name,
            type=self.type,
            guard=self.guard,
            pattern=self.pattern,
            keywords=tuple(self.keywords),
            ignores_case=self.ignores_case,
            words=tuple(self.words),
            checksum=self.checksum,
            score=self.score_percent / 100,
        )

    def to_topic(self) -> Topic:
        """As the scanner takes a topic."""
        return Topic(self.name, self.type, tuple(self.examples))


def _policies_with(kind: str, guard: str) -> str:
    """The policies of which a rule lists an own kind of `guard`, for people."""
    users = [each.value for each, finder in OWN_KINDS.items() if finder == guard]
    rules = GuardRule.objects.filter(guard__in=users, types__contains=[kind])
    return ", ".join(sorted(set(rules.values_list("policy__name", flat=True))))


def own_types(guard: str) -> list[str]:
    """The administrators' own kinds that a guard can look for."""
    if guard == Guard.EXTERNAL:
        return sorted(ExternalGuard.objects.values_list("name", flat=True))
    if (kind := OWN_KINDS.get(Guard(guard))) is None:
        return []
    rows = Recogniser.objects.filter(guard=kind.value, is_active=True)
    return sorted(set(rows.values_list("type", flat=True)))


def known_types(guard: str) -> set[str]:
    """What a guard can look for by itself."""
    return set(KNOWN[Guard(guard)])
