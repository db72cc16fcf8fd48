"""Azure's places of OpenAI's API, and the tokens of its directory."""

import re
from urllib.parse import parse_qs

from routing.simulator.requests import Refusal

SCOPE = "https://cognitiveservices.azure.com/.default"
TOKEN_S = 3599
TOKEN_PATH = re.compile(r"/([^/]+)/oauth2/v2\.0/token")
_DEPLOYMENT = re.compile(r"/openai/deployments/[^/]+/(.+)")


def plain_path(path: str, query: bytes) -> str:
    """The same place in OpenAI's API; of a deployment only with an API version, as at Azure."""
    if path.startswith("/openai/v1/"):
        return path.removeprefix("/openai")
    if b"api-version=" not in query:
        return path
    if match := _DEPLOYMENT.fullmatch(path):
        return f"/v1/{match[1]}"
    return path.replace("/openai/", "/v1/", 1) if path in ("/openai/responses", "/openai/models") else path


def make_token(tenant: str, body: bytes, number: int) -> dict[str, object]:
    """A token for a client and its secret. Raises Refusal: a secret that is `wrong`, or another scope."""
    fields = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    if fields.get("grant_type") != "client_credentials" or fields.get("scope") != SCOPE:
        raise Refusal(400, "invalid_request")
    if fields.get("client_secret", "wrong") == "wrong":
        raise Refusal(401, "invalid_client")
    token = f"token-{number}-of-{fields['client_id']}-at-{tenant}"
    return {"token_type": "Bearer", "expires_in": TOKEN_S, "access_token": token}
