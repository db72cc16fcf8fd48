"""Administration pages of the trail: to read, never to write."""

import json

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString

from audit.admin_trail import ReadOnlyAdmin
from audit.models import AdminEvent


@admin.register(AdminEvent)
class AdminEventAdmin(ReadOnlyAdmin):
    """Who changed what, when."""

    list_display = ["at", "actor", "action", "object_type", "object_label"]
    list_filter = ["object_type"]
    search_fields = ["=actor", "=action", "=object_id", "object_label"]
    search_help_text = "An actor, an action such as key.create, an object's id, or part of its name."
    fields = [
        "at",
        "actor",
        "action",
        "object_type",
        "object_id",
        "object_label",
        "before_shown",
        "after_shown",
    ]
    readonly_fields = ["before_shown", "after_shown"]

    @admin.display(description="Before")
    def before_shown(self, event: AdminEvent) -> SafeString | str:
        """The changed fields' old values."""
        return _as_text(event.before)

    @admin.display(description="After")
    def after_shown(self, event: AdminEvent) -> SafeString | str:
        """The changed fields' new values."""
        return _as_text(event.after)


def _as_text(value: object) -> SafeString | str:
    if value is None:
        return "-"
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False))
