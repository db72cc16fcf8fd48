"""`python manage.py ledger verify`: proves that the counters are what the ledger says; `--repair` makes them so."""

import contextlib
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from billing.admission.books import UnknownDepartment, list_ruled_departments
from billing.admission.commands import Commands
from billing.admission.ledger_view import LedgerView
from billing.admission.links import DirectLink, StoreLost
from billing.admission.rebuild import Rebuilder, RebuildFailed
from billing.admission.scripts import load_scripts
from billing.admission.verify import Difference, NotComparable, verify_department
from teams.models import Department

WAIT_S = 10.0  # for records to be shipped, and for counters that are being made anew
_AGAIN_S = 0.2
_HEADINGS = ("Counter", "Used in store", "Used in ledger", "Reserved", "Held by calls")


class Command(BaseCommand):
    """Compares each department's counters in the store with the ledger; traffic may go on meanwhile."""

    help = "Verifies that the counters of limits and budgets agree with the ledger."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """What to do, and with which department."""
        parser.add_argument("action", choices=["verify"], help="Compare counters and ledger.")
        parser.add_argument("--department", metavar="SLUG", help="Only this one; else all that have rules.")
        parser.add_argument(
            "--repair", action="store_true", help="Make the counters of a department that differs anew."
        )
        parser.add_argument(
            "--wait", type=float, default=WAIT_S, metavar="SECONDS", help="For what is on its way (10)."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print a table; exit status 1 when a department differs, or cannot be compared, in the end."""
        departments = _read_departments(options["department"])
        bad = []
        with contextlib.closing(DirectLink(settings.GATEWAY_COUNTERS_URL, load_scripts())) as link:
            verifier = _Verifier(link, options["wait"])
            for department in departments:
                try:
                    is_right = self._verify(verifier, department, repairs=options["repair"])
                except StoreLost as error:
                    raise CommandError(f"The counter store is away: {error}") from None
                bad += [] if is_right else [department.slug]
        if bad:
            raise CommandError(f"{len(bad)} of {len(departments)} departments differ: {', '.join(bad)}.")
        self.stdout.write(f"{len(departments)} departments: the counters are what the ledger says.")

    def _verify(self, verifier: "_Verifier", department: Department, *, repairs: bool) -> bool:
        finding = verifier.verify(department.pk)
        self.stdout.write(f"{department.slug}: {finding.says}")
        self.stdout.writelines(finding.table())
        if finding.is_right or not repairs:
            return finding.is_right
        verifier.repair(department.pk)
        finding = verifier.verify(department.pk)
        self.stdout.write(f"{department.slug}, counters made anew: {finding.says}")
        self.stdout.writelines(finding.table())
        return finding.is_right


def _read_departments(slug: str | None) -> Sequence[Department]:
    """Those to verify. Raises CommandError for an unknown one."""
    ruled = Department.objects.filter(pk__in=list_ruled_departments()).order_by("slug")
    if slug is None:
        return list(ruled)
    if not Department.objects.filter(slug=slug).exists():
        raise CommandError(f"There is no department {slug!r}.")
    return list(ruled.filter(slug=slug))


@dataclass(frozen=True, slots=True)
class _Finding:
    """What came out; `hindrance` says why nothing could be compared."""

    differences: Sequence[Difference] = ()
    hindrance: str = ""

    @property
    def is_right(self) -> bool:
        return not self.differences and not self.hindrance

    @property
    def says(self) -> str:
        if self.hindrance:
            return f"cannot be compared: {self.hindrance}"
        return f"{len(self.differences)} counters differ" if self.differences else "equal"

    def table(self) -> Iterator[str]:
        """Lines for people; amounts are nano-dollars or tokens, as the counter's name says."""
        if not self.differences:
            return
        rows = [
            (found.name, *map(str, (found.used, found.ledger, found.reserved, found.held)))
            for found in self.differences
        ]
        widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
        for name, *amounts in (_HEADINGS, *rows):
            cells = [amount.rjust(width) for amount, width in zip(amounts, widths[1:], strict=True)]
            yield "  ".join((f"  {name.ljust(widths[0])}", *cells))


class _Verifier:
    """Verifies and repairs over one link, each within a bounded time. Raises StoreLost."""

    def __init__(self, link: DirectLink, wait_s: float) -> None:
        self._link = link
        self._wait_s = wait_s
        self._commands = Commands(load_scripts())
        self._ledger = LedgerView()
        self._rebuilder = Rebuilder(link, self._commands, self._ledger)

    def verify(self, department_id: int) -> _Finding:
        """Wait for what is on its way, then compare."""
        ends = time.monotonic() + self._wait_s
        while True:
            try:
                return _Finding(verify_department(self._link, self._commands, self._ledger, department_id))
            except UnknownDepartment:
                return _Finding()  # it was deleted meanwhile
            except NotComparable as error:
                if time.monotonic() >= ends:
                    return _Finding(hindrance=str(error))
            time.sleep(_AGAIN_S)

    def repair(self, department_id: int) -> None:
        """Make a new epoch out of the ledger and let calls in again. What fails shows when it is verified."""
        ends = time.monotonic() + self._wait_s
        lost_in = self._rebuilder.read_marker(department_id).n
        is_done = False
        while time.monotonic() < ends:
            with contextlib.suppress(RebuildFailed, UnknownDepartment):
                is_done = is_done or self._rebuilder.rebuild(department_id, lost_in=lost_in)
                if is_done and self._rebuilder.open_if_declared(department_id):
                    return
            time.sleep(_AGAIN_S)
