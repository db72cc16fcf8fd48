"""Steps with consequences: asked on a page of their own, done in one transaction, each recorded by its service."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode

from audit.admin_trail import AuditedAdmin, actor_of
from teams.permissions import access_of
from teams.roles import Action

MOST_AT_ONCE = 100  # so that the page can list them

if TYPE_CHECKING:
    Rows = models.QuerySet[Any]
else:
    Rows = models.QuerySet


@dataclass(frozen=True, slots=True)
class Step:
    """What can be done to rows of a model after a confirmation.

    `run` takes a row, the actor and the form's values; its result is false when there was nothing to do.
    `fits` gives the rows it can be done to. `consequence` is told before, `done` after: "was revoked".
    """

    name: str
    verb: str
    done: str
    action: Action
    consequence: str
    fits: Callable[[], Q]
    run: Callable[[Any, str, Mapping[str, Any]], object]
    form: type[forms.Form] = forms.Form
    is_destructive: bool = True
    most: int = MOST_AT_ONCE


class ConfirmingAdmin(AuditedAdmin):
    """Offers `steps` in its list and on its objects' pages to those whose role allows them."""

    steps: tuple[Step, ...] = ()
    change_form_template = "admin/change_with_steps.html"

    def rows_for(self, step: Step, request: HttpRequest) -> Rows:
        """The rows that `step` can be done to."""
        return self.get_queryset(request).filter(step.fits())

    def describe(self, row: Any) -> str:
        """What the confirmation says of a row beside its name."""
        return ""

    def get_actions(self, request: HttpRequest, *place: Any) -> dict[str, Any]:
        """Django's actions, and the steps this person may take."""
        offered = {step.name: _as_action(step) for step in self._steps_for(request)}
        return super().get_actions(request, *place) | (offered if self.actions is not None else {})

    def get_urls(self) -> list[URLPattern]:
        """A page for each step."""
        pages = [
            path(
                f"{step.name}/",
                self.admin_site.admin_view(partial(self.step_view, step=step)),
                name=self._page_name(step),
            )
            for step in self.steps
        ]
        return [*pages, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """The object's page, with the steps that it allows now."""
        row = self.get_object(request, object_id)
        offered = [] if row is None else [step for step in self._steps_for(request) if self._fits(step, row)]
        links = [(step, f"{self._address(step)}?id={object_id}") for step in offered]
        return super().change_view(
            request, object_id, form_url, {**(extra_context or {}), "step_links": links}
        )

    def step_view(self, request: HttpRequest, step: Step) -> HttpResponse:
        """Ask whether to take `step` for the rows named by `id` (GET), and take it (POST)."""
        if not access_of(request.user).may(step.action):
            raise PermissionDenied
        rows = list(self.rows_for(step, request).filter(pk__in=_asked_ids(request, step.most)))
        form = step.form(request.POST if request.method == "POST" else None)
        if request.method == "POST" and rows and form.is_valid():
            try:
                return self.respond(request, step, self._take(request, step, rows, form.cleaned_data))
            except ValidationError as error:
                form.add_error(None, error.messages)
        title = f"{step.verb} {_count(self.opts, rows)}?" if rows else step.verb
        context = {
            **self.admin_site.each_context(request),
            "title": title,
            "opts": self.opts,
            "step": step,
            "rows": [(row, self.describe(row)) for row in rows],
            "button": title.removesuffix("?"),
            "form": form,
            "list_url": reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"),
        }
        return TemplateResponse(request, "admin/confirm_step.html", context)

    def respond(self, request: HttpRequest, step: Step, results: Sequence[object]) -> HttpResponse:
        """Back to the list with a word of what was done."""
        count = _count(self.opts, results)
        verb = step.done if len(results) == 1 else step.done.replace("was ", "were ", 1)
        self.message_user(request, f"{count} {verb}.", messages.SUCCESS if results else messages.WARNING)
        return HttpResponseRedirect(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"))

    @transaction.atomic
    def _take(
        self, request: HttpRequest, step: Step, rows: Sequence[Any], values: Mapping[str, Any]
    ) -> list[object]:
        results = []
        for row in rows:
            if result := step.run(row, actor_of(request), values):
                results.append(result)
                self.log_change(request, row, f"{step.done.removeprefix('was ').capitalize()}.")
        return results

    def _steps_for(self, request: HttpRequest) -> list[Step]:
        access = access_of(request.user)
        return [step for step in self.steps if access.may(step.action)]

    def _fits(self, step: Step, row: models.Model) -> bool:
        return bool(self.model._default_manager.filter(step.fits(), pk=row.pk).exists())

    def _page_name(self, step: Step) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{step.name}"

    def _address(self, step: Step) -> str:
        return reverse(f"admin:{self._page_name(step)}")


def _as_action(step: Step) -> tuple[Callable[..., HttpResponse | None], str, str]:
    """The step as Django's lists know an action: it leads to the confirmation."""

    def ask(admin: ConfirmingAdmin, request: HttpRequest, rows: Rows) -> HttpResponse | None:
        ids = list(rows.values_list("pk", flat=True)[: step.most + 1])
        if len(ids) > step.most:
            at_most = f"at most {step.most}" if step.most > 1 else "one"
            admin.message_user(request, f"Select {at_most} to {step.verb.lower()}.", messages.ERROR)
            return None
        return HttpResponseRedirect(f"{admin._address(step)}?{urlencode({'id': ids}, doseq=True)}")

    return ask, step.name, f"{step.verb} selected %(verbose_name_plural)s"


def _asked_ids(request: HttpRequest, most: int) -> list[str]:
    asked = (request.POST if request.method == "POST" else request.GET).getlist("id")
    return [item for item in asked if item.isascii() and item.isdecimal() and len(item) < 19][:most]


def _count(opts: Any, rows: Sequence[object]) -> str:
    name = opts.verbose_name if len(rows) == 1 else opts.verbose_name_plural
    return f"{len(rows)} {name}"
