"""Bases of the administration's pages: a page either records every change it makes, or it changes nothing."""

from collections.abc import Iterator, Sequence
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from django.contrib import admin
from django.contrib.admin.utils import NestedObjects
from django.contrib.auth.hashers import is_password_usable
from django.core.paginator import Paginator
from django.db import models, router, transaction
from django.forms import BaseModelFormSet, ModelForm
from django.http import HttpRequest

from audit.services import record_event

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
    RowPaginator = Paginator[Any]
else:
    ModelAdmin = admin.ModelAdmin
    RowPaginator = Paginator

# Of these, and of every binary field, the trail says whether they are set, never what they hold.
SECRET_FIELDS = frozenset({"password", "digest", "pepper_version", "credential_encrypted"})
MOST_ROWS = 1000


class Fact(NamedTuple):
    """A field's value as it is compared, and as the trail tells it (JSON-ready, no secret)."""

    stored: object
    told: object


Facts = dict[str, Fact]


def read_facts(target: models.Model) -> Facts:
    """Every field of `target` but its primary key; related objects by their names."""
    facts = {
        field.name: _fact(field, target) for field in target._meta.concrete_fields if not field.primary_key
    }
    for many in target._meta.many_to_many:
        through = many.remote_field.through
        if through is not None and through._meta.auto_created:
            related = {item.pk: str(item) for item in getattr(target, many.name).all()}
            facts[many.name] = Fact(set(related), sorted(related.values()))
    return facts


def _fact(field: "models.Field[Any, Any]", target: models.Model) -> Fact:
    stored = getattr(target, field.attname)
    if field.name in SECRET_FIELDS or isinstance(field, models.BinaryField):
        stored = bytes(stored) if isinstance(stored, memoryview) else stored
        is_set = is_password_usable(str(stored)) if field.name == "password" else bool(stored)
        return Fact(stored, "set" if is_set else "not set")
    if field.is_relation:
        return Fact(stored, None if stored is None else str(getattr(target, field.name)))
    tell = getattr(target, "tell_field", None)  # a model's own words for what nobody reads as it is stored
    told = tell(field.name) if tell else None
    return Fact(stored, _json_ready(stored) if told is None else told)


def _json_ready(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    return value.isoformat() if isinstance(value, datetime | date) else str(value)


def tell_difference(before: Facts, after: Facts) -> tuple[dict[str, Any], dict[str, Any]]:
    """The changed fields, before and after. A secret that replaced another is told as `replaced`."""
    changed = [name for name, fact in after.items() if fact.stored != before[name].stored]
    old = {name: before[name].told for name in changed}
    new = {name: after[name].told for name in changed}
    same_words = [name for name in changed if old[name] == new[name] == "set"]
    return old, new | dict.fromkeys(same_words, "replaced")


def record_addition(actor: str, target: models.Model) -> None:
    """Record all fields of a new object, as the database holds them."""
    after = {name: fact.told for name, fact in read_facts(_stored(target)).items()}
    record_event(actor, f"{target._meta.model_name}.create", target, after=after)


def record_change(actor: str, target: models.Model, before: Facts) -> None:
    """Record what differs from `before`, if anything does."""
    old, new = tell_difference(before, read_facts(_stored(target)))
    if new:
        record_event(actor, f"{target._meta.model_name}.change", target, before=old, after=new)


def record_deletion(actor: str, target: models.Model) -> None:
    """Record the fields of an object about to be deleted."""
    before = {name: fact.told for name, fact in read_facts(target).items()}
    record_event(actor, f"{target._meta.model_name}.delete", target, before=before)


def _stored(target: models.Model) -> models.Model:
    return target._meta.model._default_manager.get(pk=target.pk)


def lock_facts(target: models.Model) -> Facts:
    """The stored values of `target`, which nobody else can change until the transaction ends."""
    return read_facts(target._meta.model._default_manager.select_for_update().get(pk=target.pk))


class AuditedAdmin(ModelAdmin):
    """Records an event for every object it adds, changes or deletes, in the transaction of the change."""

    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # they count every filter's rows

    def save_model(self, request: HttpRequest, obj: models.Model, form: Any, change: bool) -> None:
        """Save; what was stored before is kept beside the form for `save_related`."""
        form.facts_before = lock_facts(obj) if change else None
        super().save_model(request, obj, form, change)

    def save_related(
        self, request: HttpRequest, form: "ModelForm[Any]", formsets: Sequence[Any], change: bool
    ) -> None:
        """Save many-to-many fields, record the object, then save and record its inlines."""
        super().save_related(request, form, [], change)
        self.record_saved(request, form, change)
        for formset in formsets:
            self.save_formset(request, form, formset, change)

    def record_saved(self, request: HttpRequest, form: Any, change: bool) -> None:
        """Record the object of `form`, now that it is complete."""
        if change:
            record_change(actor_of(request), form.instance, form.facts_before)
        else:
            record_addition(actor_of(request), form.instance)

    def save_formset(
        self,
        request: HttpRequest,
        form: "ModelForm[Any]",
        formset: "BaseModelFormSet[Any, Any]",
        change: bool,
    ) -> None:
        """Save an inline's rows, each with its own event."""
        actor = actor_of(request)
        before = {row.instance.pk: lock_facts(row.instance) for row in formset.initial_forms}
        for row in formset.deleted_forms:
            if row.instance.pk is not None:
                record_deletion(actor, _stored(row.instance))
        super().save_formset(request, form, formset, change)
        for added in formset.new_objects:
            record_addition(actor, added)
        for changed, _ in formset.changed_objects:
            record_change(actor, changed, before[changed.pk])

    def delete_model(self, request: HttpRequest, obj: models.Model) -> None:
        """Delete `obj`, with an event for it and for everything that goes with it."""
        for doomed in self._list_doomed(obj):
            record_deletion(actor_of(request), doomed)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: "models.QuerySet[Any]") -> None:
        """Delete all or none."""
        with transaction.atomic(using=router.db_for_write(self.model)):
            for obj in queryset:
                self.delete_model(request, obj)

    def _list_doomed(self, obj: models.Model) -> Iterator[models.Model]:
        collector = NestedObjects(using=router.db_for_write(self.model))
        collector.collect([obj])
        for instances in collector.model_objs.values():
            yield from (item for item in instances if self.admin_site.is_registered(type(item)))


class CappedPaginator(RowPaginator):
    """Counts no further than `MOST_ROWS`, so that a page costs the same however long the table is."""

    @cached_property
    def count(self) -> int:
        """The number of rows, at most `MOST_ROWS`."""
        rows: Any = self.object_list
        return int(rows.order_by()[:MOST_ROWS].count())


class ReadOnlyAdmin(ModelAdmin):
    """Shows rows that nobody changes here, newest first, to those with the right to view them."""

    actions = None
    list_per_page = 50
    sortable_by = ()
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    paginator = CappedPaginator
    change_list_template = "admin/newest_rows.html"

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Nobody changes rows here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        """Nobody deletes rows here."""
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list, which says how far it goes."""
        return super().changelist_view(request, {**(extra_context or {}), "most_rows": MOST_ROWS})


def actor_of(request: HttpRequest) -> str:
    """The name under which the trail knows the person who sent `request`."""
    return request.user.get_username()
