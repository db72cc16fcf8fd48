"""The demo: a small company whose models are served by the simulator. Made once from demo.yaml, then left to its
users.

Its key and passwords are derived from GATEWAY_SECRET_KEY, so they can be told again without being stored.
"""

import hashlib
import hmac
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from gateway_site.configuration_file.applying import apply_text
from outbound.credentials import CredentialError, decrypt_credential, encrypt_credential
from routing.models import Backend
from teams.key_holder import find_key_holder
from teams.keys import Peppers, key_from_number
from teams.models import ApiKey, Application, Role, Team
from teams.services import create_key, revoke_key

FILE = Path(__file__).with_name("demo.yaml")
ACTOR = "load_demo"
TEAM = "demo-team"
APPLICATION = "demo-app"
MODEL = "demo-chat"
BACKEND = "simulator"
_CREDENTIAL = "simulator-needs-no-secret"


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


def _variables(simulator_url: str) -> dict[str, str]:
    """What demo.yaml leaves open: the address, and secrets, which are in no file."""
    passwords = {f"PASSWORD_OF_{person.label.upper()}": demo_password(person) for person in PEOPLE}
    return {
        "SIMULATOR_URL": simulator_url,
        "SIMULATOR_CREDENTIAL": _CREDENTIAL,
        "API_KEY": demo_key(),
        **passwords,
    }


@transaction.atomic
def load(simulator_url: str) -> bool:
    """Make the demo data unless it exists; returns whether it was made.

    Existing data follows what changed around it: the simulator's address, and the secrets of the installation.
    """
    team = Team.objects.filter(slug=TEAM).first()
    if team is None:
        apply_text(FILE.read_text(encoding="utf-8"), actor=ACTOR, variables=_variables(simulator_url))
        return True
    _follow_simulator(simulator_url)
    _follow_secrets(team)
    return False


def _follow_simulator(simulator_url: str) -> None:
    backend = Backend.objects.filter(name=BACKEND).first()
    if backend is None or backend.credential_encrypted is None:
        return  # its users made something else of it
    try:
        decrypt_credential(bytes(backend.credential_encrypted), simulator_url)
    except CredentialError:  # another address, or other keys of the installation
        backend.base_url = simulator_url
        backend.credential_encrypted = encrypt_credential(_CREDENTIAL, simulator_url)
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
