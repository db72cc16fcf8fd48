"""Reads of prices."""

from billing.models import ListPrice


def is_listed(provider: str, model: str) -> bool:
    """Whether the list prices know the model, from whatever moment on."""
    return ListPrice.objects.filter(provider=provider, model=model).exists()
