"""The routes of the data plane: literal paths, looked up in one dictionary."""

from collections.abc import Callable
from typing import Any

from routing.views import ChatCompletionsView, ModelsView, UnknownPathView

View = Callable[..., Any]  # called with a request, awaited for its response

ROUTES: dict[str, View] = {
    "/v1/chat/completions": ChatCompletionsView.as_view(),
    "/v1/models": ModelsView.as_view(),
}
unknown_path: View = UnknownPathView.as_view()


def find_view(path: str) -> View:
    """The view of `path`; a trailing slash is another path, as it is for the providers."""
    return ROUTES.get(path, unknown_path)
