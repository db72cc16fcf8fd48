"""Administrative events: append-only, enforced by triggers and by the runtime role's grants."""

from django.db import models


class AdminEvent(models.Model):
    """One change by a person, a command or a service: who, what, before and after (never a secret)."""

    at = models.DateTimeField(auto_now_add=True)
    actor = models.CharField(max_length=200, help_text="User name, or the command or service that acted.")
    action = models.CharField(max_length=80, help_text="For example key.create.")
    object_type = models.CharField(max_length=80)
    object_id = models.CharField(max_length=80)
    object_label = models.CharField(max_length=200)
    before = models.JSONField(null=True, blank=True)
    after = models.JSONField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["object_type", "object_id", "-id"], name="audit_event_object")]

    def __str__(self) -> str:
        return f"{self.action} {self.object_label}"
