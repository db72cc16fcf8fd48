"""Which database role does what: `default` serves, `owner` makes the schema."""

from typing import Any


class SchemaOwnerRouter:
    """Migrations run as the schema's owner; everything else uses the runtime role."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        """Only the owner may migrate."""
        return db == "owner"
