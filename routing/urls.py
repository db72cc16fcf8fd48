"""The routes of the data plane: literal paths, looked up in one dictionary."""

from collections.abc import Awaitable, Callable

from routing.call import Reply
from routing.views import ChatCompletionsView, DataPlaneRequest, ModelsView, UnknownPathView

View = Callable[[DataPlaneRequest], Awaitable[Reply]]

# A view keeps nothing of a request, so one of each serves them all.
ROUTES: dict[str, View] = {
    "/v1/chat/completions": ChatCompletionsView().dispatch,
    "/v1/models": ModelsView().dispatch,
}
unknown_path: View = UnknownPathView().dispatch


def find_view(path: str) -> View:
    """The view of `path`; a trailing slash is another path, as it is for the providers."""
    return ROUTES.get(path, unknown_path)
