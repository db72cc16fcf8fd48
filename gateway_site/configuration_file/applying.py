"""Make the database as a file says: all of it in one transaction, or nothing."""

from collections.abc import Callable, Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.db import DatabaseError, IntegrityError, connection, transaction

from gateway_site.configuration_file.faults import ConfigurationFileError, Fault
from gateway_site.configuration_file.planning import Action, Plan, Step, make_plan
from gateway_site.configuration_file.reading import read_entries
from gateway_site.configuration_file.references import list_references

# Two files at once would each be compared with a database that the other is changing.
_ONE_AT_A_TIME = "SELECT pg_advisory_xact_lock(hashtextextended('gateway configuration file', 0))"


def apply_text(
    text: str, *, actor: str, variables: Mapping[str, str] | None = None, dry_run: bool = False
) -> Plan:
    """Apply the file in `text`; returns what was done, or with `dry_run` what would be.

    A dry run does everything, so that the database's own rules are tried too, and rolls it back. Events are
    written in `actor`'s name. Raises ConfigurationFileError with every fault, and then nothing has changed.
    """
    entries = read_entries(text, variables or {})
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_ONE_AT_A_TIME)
        plan = make_plan(entries)
        _Execution(actor).run(plan)
        _ask_what_is_asked_last(plan)
        if dry_run:
            transaction.set_rollback(True)
    return plan


def _ask_what_is_asked_last(plan: Plan) -> None:
    """Have the database judge now what it would judge at the commit: that a platform admin remains, for one.

    Raises ConfigurationFileError at the last step that changed a person or a role.
    """
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except IntegrityError as error:
        changed = [step for step in plan.steps if step.action is not Action.KEEP]
        about_people = [step for step in changed if step.entry.section in {"people", "members"}]
        raise ConfigurationFileError(_faults_of((about_people or changed)[-1], error)) from None


class _Execution:
    """Carries out a plan. What fails does not stop the rest, so that every fault is found in one go."""

    def __init__(self, actor: str) -> None:
        self._actor = actor
        self._faults: list[Fault] = []
        self._failed: set[tuple[Any, ...]] = set()  # section and identity

    def run(self, plan: Plan) -> None:
        """Raises ConfigurationFileError."""
        written = [step for step in plan.steps if step.action in {Action.ADD, Action.CHANGE}]
        removed = [step for step in reversed(plan.steps) if step.action is Action.REMOVE]
        for step in (*written, *removed):
            self._try(step, self._release)
        for step in written:
            self._try(step, self._write)
        for step in removed:
            self._try(step, self._remove)
        for step in written:
            self._try(step, self._settle)
        if self._faults:
            raise ConfigurationFileError(self._faults)

    def _release(self, step: Step) -> None:
        if step.row is not None:
            step.kind.release(step.entry, step.row, self._actor)

    def _write(self, step: Step) -> None:
        if step.row is None:
            step.kind.add(step.entry, self._actor)
        else:
            step.kind.change(step.entry, step.row, list(step.differences), self._actor)

    def _remove(self, step: Step) -> None:
        if step.row is not None:
            step.kind.remove(step.row, self._actor)

    def _settle(self, step: Step) -> None:
        step.kind.settle(step.entry, self._actor)

    def _try(self, step: Step, act: Callable[[Step], None]) -> None:
        name = (step.entry.section, *step.entry.identity)
        if name in self._failed or any(used in self._failed for _, used in list_references(step.entry)):
            self._failed.add(name)  # a consequence of a fault that is told already
            return
        try:
            with transaction.atomic():
                act(step)
        except (ValidationError, DatabaseError) as error:
            self._failed.add(name)
            self._faults += _faults_of(step, error)


def _faults_of(step: Step, error: ValidationError | DatabaseError) -> list[Fault]:
    entry, told = step.entry, step.kind.tell(step.entry.identity, step.entry.values)
    if isinstance(error, DatabaseError):
        cause = getattr(error.__cause__, "diag", None)
        reason = cause.message_primary if cause is not None else "it cannot be stored"
        return [entry.fault(f"{step.kind.noun} {told}: the database refuses it: {reason}")]
    if not hasattr(error, "error_dict"):
        return [entry.fault(f"{step.kind.noun} {told}: {' '.join(error.messages)}")]
    return [
        entry.fault(
            f"{name}: {message}" if name in entry.marks else f"{step.kind.noun} {told}: {message}", name
        )
        for name, messages in error.message_dict.items()
        for message in messages
    ]
