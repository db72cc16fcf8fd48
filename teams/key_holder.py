"""Who holds a key, and what the key may be used for, as plain values that a worker keeps in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from teams.key_rules import Address, Network, parse_network
from teams.models import ApiKey, Application, CountersAway, Priority, Reserve, Team

NO_TAGS: frozenset[str] = frozenset()


@dataclass(slots=True, weakref_slot=True, eq=False)
class KeyOwner:
    """A team, the department above it and its applications (ids by slug): one object for all the team's keys.

    `is_current` is the ring's: it is lowered when something here has changed, and every holder that refers to
    this object is then looked up again.
    """

    team_id: int
    team: str
    is_active: bool
    department_id: int
    department: str
    applications: Mapping[str, int]
    may_go_uncounted: bool = False  # while the counters are away, also under a hard budget
    reserves_typical: bool = False  # of a stream what such calls need, in steps, instead of the most
    max_queue_s: int = 0
    priority: str = Priority.NORMAL.value
    required_tags: frozenset[str] = NO_TAGS
    application_tags: Mapping[int, frozenset[str]] = field(default_factory=dict)  # of those that have any
    regions: tuple[str, ...] = ()
    continues_streams: bool = False
    is_current: bool = True


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What a key is restricted to; an empty rule restricts nothing."""

    scopes: frozenset[str]
    models: frozenset[str]
    networks: tuple[Network, ...]
    required_tags: frozenset[str] = NO_TAGS

    def allow_address(self, address: Address | None) -> bool:
        """Whether the key may be used from `address`; from an unknown one only without ranges."""
        return not self.networks or (
            address is not None and any(address in network for network in self.networks)
        )

    def allow_endpoint(self, endpoint: str) -> bool:
        """Whether the key may call `endpoint`."""
        return not self.scopes or endpoint in self.scopes

    def allow_model(self, name: str) -> bool:
        """Whether the key may use the model."""
        return not self.models or name in self.models


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """A stored key, whatever its state. `rules` is None for a key without restrictions, which cost it nothing."""

    key_id: int
    hint: str
    owner: KeyOwner
    application_id: int | None
    application: str
    is_stopped: bool  # revoked or paused
    expires_at: datetime | None
    rules: KeyRules | None

    @property
    def team_id(self) -> int:
        """The key's team."""
        return self.owner.team_id

    def is_usable_at(self, moment: datetime) -> bool:
        """Whether calls with this key are answered at `moment`, as far as key and team say."""
        if self.is_stopped or not self.owner.is_active:
            return False
        return self.expires_at is None or moment < self.expires_at

    def required_tags(self, application_id: int | None) -> frozenset[str]:
        """What every backend must have that is called with this key for this application of its team."""
        owner, rules = self.owner, self.rules
        if rules is None and not owner.required_tags and not owner.application_tags:
            return NO_TAGS
        own = NO_TAGS if rules is None else rules.required_tags
        return owner.required_tags | own | owner.application_tags.get(application_id or 0, NO_TAGS)

    def may_use(self, model: str) -> bool:
        """Whether the key's own rules allow the model; the team's grants are another matter."""
        return self.rules is None or self.rules.allow_model(model)


NO_OWNERS: Mapping[int, KeyOwner] = {}


def find_key_holder(digests: list[bytes], owners: Mapping[int, KeyOwner] = NO_OWNERS) -> KeyHolder | None:
    """The holder of the key stored under one of `digests`, or None. `owners`, by team, need not be read again."""
    key = ApiKey.objects.select_related("application").filter(digest__in=digests).first()
    return None if key is None else hold_for_key(key, owners)


def hold_for_key(key: ApiKey, owners: Mapping[int, KeyOwner] = NO_OWNERS) -> KeyHolder:
    """The holder of a stored key. `owners`, by team, need not be read again."""
    return KeyHolder(
        key_id=key.pk,
        hint=key.hint,
        owner=owners.get(key.team_id) or _read_owner(key.team_id),
        application_id=key.application_id,
        application=key.application.slug if key.application else "",
        is_stopped=key.revoked_at is not None or key.paused_at is not None,
        expires_at=key.expires_at,
        rules=_read_rules(key),
    )


def hold_for_team(team_id: int) -> KeyHolder:
    """What the holder of a key without rules of its own would be, of a team; there is no such key."""
    return KeyHolder(
        key_id=0,
        hint="",
        owner=_read_owner(team_id),
        application_id=None,
        application="",
        is_stopped=False,
        expires_at=None,
        rules=None,
    )


def _read_owner(team_id: int) -> KeyOwner:
    team = Team.objects.select_related("department").get(pk=team_id)
    applications = list(
        Application.objects.filter(team_id=team_id).order_by().values_list("slug", "id", "required_tags")
    )
    return KeyOwner(
        team_id=team_id,
        team=team.slug,
        is_active=team.is_active,
        department_id=team.department_id,
        department=team.department.slug,
        applications={slug: number for slug, number, _ in applications},
        may_go_uncounted=team.counters_away == CountersAway.ALLOW,
        reserves_typical=team.reserve == Reserve.TYPICAL,
        max_queue_s=team.max_queue_s,
        priority=team.priority,
        required_tags=frozenset(team.required_tags),
        application_tags={number: frozenset(tags) for _, number, tags in applications if tags},
        regions=tuple(team.regions),
        continues_streams=team.continues_streams,
    )


def _read_rules(key: ApiKey) -> KeyRules | None:
    if not (key.scopes or key.allowed_models or key.ip_ranges or key.required_tags):
        return None
    return KeyRules(
        scopes=frozenset(key.scopes),
        models=frozenset(key.allowed_models),
        networks=tuple(parse_network(text) for text in key.ip_ranges),
        required_tags=frozenset(key.required_tags),
    )
