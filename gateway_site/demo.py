"""The demo: a small company whose models are served by the simulator. Made once, then left to its users.

Its key and passwords are derived from GATEWAY_SECRET_KEY, so they can be told again without being stored.
"""

import hashlib
import hmac
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from billing.models import PriceEntry
from routing.credentials import CredentialError, decrypt_credential, encrypt_credential
from routing.models import Backend, CatalogueModel, Grant, Route
from teams.key_holder import find_key_holder
from teams.keys import Peppers, key_from_number
from teams.models import ApiKey, Application, Department, Member, Role, Team
from teams.services import create_key, revoke_key

ACTOR = "load_demo"
DEPARTMENT = "demo-department"
TEAM = "demo-team"
APPLICATION = "demo-app"
MODEL = "demo-chat"
UNGRANTED_MODEL = "demo-restricted"
BACKEND = "simulator"


@dataclass(frozen=True, slots=True)
class Person:
    """A demo user: the label in demo.json, and the role."""

    label: str
    username: str
    role: Role


PEOPLE = (
    Person("admin", "demo-admin", Role.PLATFORM_ADMIN),
    Person("auditor", "demo-auditor", Role.SECURITY_AUDITOR),
    Person("finance", "demo-finance", Role.FINANCE),
    Person("department_manager", "demo-manager", Role.DEPARTMENT_MANAGER),
    Person("team_owner", "demo-owner", Role.TEAM_OWNER),
    Person("member", "demo-member", Role.TEAM_MEMBER),
)


def _derive(purpose: str) -> bytes:
    return hmac.digest(settings.SECRET_KEY.encode(), f"demo:{purpose}".encode(), hashlib.sha512)


def demo_key() -> str:
    """The demo application's API key."""
    return key_from_number(int.from_bytes(_derive("api key")) % 62**43)


def demo_password(person: Person) -> str:
    """20 hexadecimal digits."""
    return _derive(f"password of {person.username}").hex()[:20]


def describe(base_url: str) -> dict[str, object]:
    """The content of demo.json. `base_url` is the portal's, without a path."""
    users = {
        person.label: {"username": person.username, "password": demo_password(person)} for person in PEOPLE
    }
    return {
        "base_url": f"{base_url}/v1",
        "portal_url": base_url,
        "api_key": demo_key(),
        "model": MODEL,
        "users": users,
    }


@transaction.atomic
def load(simulator_url: str) -> bool:
    """Make the demo data unless it exists; returns whether it was made.

    Existing data follows what changed around it: the simulator's address, and the secrets of the installation.
    """
    team = Team.objects.filter(slug=TEAM).first()
    if team is None:
        _load_catalogue(simulator_url)
        _load_people(_load_team())
        return True
    _follow_simulator(simulator_url)
    _follow_secrets(team)
    return False


def _load_catalogue(simulator_url: str) -> None:
    backend = Backend.objects.create(
        name=BACKEND,
        base_url=simulator_url,
        upstream_model="simulated-chat",
        credential_encrypted=encrypt_credential("simulator-needs-no-secret", simulator_url),
    )
    PriceEntry.objects.create(
        backend=backend,
        input_usd_per_million=Decimal("0.15"),
        cached_input_usd_per_million=Decimal("0.075"),
        output_usd_per_million=Decimal("0.60"),
    )
    for name, description in (
        (MODEL, "The demo's model."),
        (UNGRANTED_MODEL, "Granted to nobody: answers 403."),
    ):
        model = CatalogueModel.objects.create(name=name, description=description)
        Route.objects.create(model=model, backend=backend)


def _follow_simulator(simulator_url: str) -> None:
    backend = Backend.objects.filter(name=BACKEND).first()
    if backend is None or backend.credential_encrypted is None:
        return  # its users made something else of it
    try:
        decrypt_credential(bytes(backend.credential_encrypted), simulator_url)
    except CredentialError:  # another address, or other keys of the installation
        backend.base_url = simulator_url
        backend.credential_encrypted = encrypt_credential("simulator-needs-no-secret", simulator_url)
        backend.save(update_fields=["base_url", "credential_encrypted"])


def _follow_secrets(team: Team) -> None:
    """With other secrets in force the old key and passwords cannot be told any more: make them anew."""
    if find_key_holder(Peppers.parse(settings.GATEWAY_KEY_PEPPERS).digests(demo_key())) is not None:
        return
    application = Application.objects.get(team=team, slug=APPLICATION)
    for key in ApiKey.objects.filter(application=application, created_by=ACTOR):
        revoke_key(key, actor=ACTOR)
    if not ApiKey.objects.filter(digest=_current_digest()).exists():  # else its users revoked it: that stays
        create_key(
            team, "Demo key", actor=ACTOR, application=application, never_expires=True, secret=demo_key()
        )
        for person in PEOPLE:
            for user in User.objects.filter(username=person.username):
                user.set_password(demo_password(person))
                user.save(update_fields=["password"])


def _current_digest() -> bytes:
    peppers = Peppers.parse(settings.GATEWAY_KEY_PEPPERS)
    return peppers.digest(demo_key(), peppers.current)


def _load_team() -> Team:
    department = Department.objects.create(slug=DEPARTMENT, name="Demo department", cost_centre="4711")
    team = Team.objects.create(department=department, slug=TEAM, name="Demo team")
    application = Application.objects.create(team=team, slug=APPLICATION, name="Demo application")
    Grant.objects.create(team=team, model=CatalogueModel.objects.get(name=MODEL))
    create_key(team, "Demo key", actor=ACTOR, application=application, never_expires=True, secret=demo_key())
    return team


def _load_people(team: Team) -> None:
    for person in PEOPLE:
        user = User.objects.create_user(person.username, password=demo_password(person))
        scopes: dict[Role, dict[str, Any]] = {
            Role.DEPARTMENT_MANAGER: {"department": team.department},
            Role.TEAM_OWNER: {"team": team},
            Role.TEAM_MEMBER: {"team": team},
        }
        Member.objects.create(user=user, role=person.role, **scopes.get(person.role, {}))
