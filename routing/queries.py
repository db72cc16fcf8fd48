"""Reads of the catalogue and its backends."""

from django.db.models import Exists, OuterRef

from routing.models import Backend, CatalogueModel, Route


def list_models_served_only_by(backend: Backend) -> list[str]:
    """The active models that nothing else serves, by name."""
    others = Route.objects.filter(
        model=OuterRef("pk"), backend__is_active=True, backend__is_draining=False
    ).exclude(backend=backend)
    served = CatalogueModel.objects.filter(is_active=True, backends=backend)
    return list(served.filter(~Exists(others)).values_list("name", flat=True))
