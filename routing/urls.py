"""The routes of the data plane: OpenAI's paths, and the same endpoints where the Azure client looks for them.

Literal paths are looked up in one dictionary; what is left may name a model.
"""

import re
from collections.abc import Mapping

from routing.endpoints.chat import ChatEndpoint
from routing.endpoints.completions import CompletionsEndpoint
from routing.endpoints.embeddings import EmbeddingsEndpoint
from routing.endpoints.messages import CountTokensEndpoint, MessagesEndpoint
from routing.endpoints.responses import ResponsesEndpoint
from routing.views import CompletionView, CountTokensView, GatewayView, ModelsView, ModelView, UnknownPathView

# A view keeps nothing of a request, so one of each serves them all.
_ENDPOINTS: Mapping[str, GatewayView] = {
    endpoint.path: CompletionView(endpoint)
    for endpoint in (
        ChatEndpoint(),
        CompletionsEndpoint(),
        EmbeddingsEndpoint(),
        MessagesEndpoint(),
        ResponsesEndpoint(),
    )
}
_VIEWS: Mapping[str, GatewayView] = {
    **_ENDPOINTS,
    CountTokensEndpoint.path: CountTokensView(CountTokensEndpoint()),
    "models": ModelsView(),
}
_BASES = ("/v1/", "/openai/v1/")
_LITERAL: Mapping[str, GatewayView] = {base + path: view for base in _BASES for path, view in _VIEWS.items()}
_MODEL = re.compile(r"(?:/openai)?/v1/models/(.+)")
_DEPLOYMENT = re.compile(r"/openai/deployments/(.+?)/(" + "|".join(map(re.escape, _ENDPOINTS)) + ")")
_show_model = ModelView()
_unknown_path = UnknownPathView()


def is_data_plane(path: str) -> bool:
    """Whether `path` is ours rather than Django's."""
    return path.startswith(("/v1/", "/openai/")) or path in {"/v1", "/openai"}


def find_view(path: str) -> tuple[GatewayView, str | None]:
    """The view of `path`, and the model that the path names; a trailing slash is another path, as it is for the
    providers. A model's name may hold slashes."""
    if (view := _LITERAL.get(path)) is not None:
        return view, None
    if match := _MODEL.fullmatch(path):
        return _show_model, match[1]
    if match := _DEPLOYMENT.fullmatch(path):
        return _ENDPOINTS[match[2]], match[1]
    return _unknown_path, None
