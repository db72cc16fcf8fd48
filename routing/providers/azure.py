"""Azure OpenAI: deployments under a dated API version, or the v1 API where the backend names no version."""

from urllib.parse import quote

from routing.providers.openai import OpenAI
from routing.snapshot import Target


class Azure(OpenAI):
    """See api.Api. Operations, bodies and errors are OpenAI's."""

    def address(self, target: Target, base: str, path: str) -> str:
        """See api.Api. The base URL may be the resource's, or go on to `/openai` or `/openai/v1`."""
        root = _root(base)
        if not target.api_version:
            return f"{root}/openai/v1/{path}"
        place = path if path == "responses" else f"deployments/{quote(target.upstream_model, safe='')}/{path}"
        return f"{root}/openai/{place}?api-version={target.api_version}"

    def check_address(self, target: Target, base: str) -> str:
        """See api.Api: the list of models."""
        root = _root(base)
        dated = f"{root}/openai/models?api-version={target.api_version}"
        return dated if target.api_version else f"{root}/openai/v1/models"

    def headers(self, target: Target, credential: str | None) -> str:
        """See api.Api."""
        if credential is None or target.entra is not None:
            return super().headers(target, credential)
        return f"api-key: {credential}\r\n"


def _root(base: str) -> str:
    return base.removesuffix("/v1").removesuffix("/openai")
