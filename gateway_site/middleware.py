"""The portal's Content-Security-Policy: everything from here, nothing inline."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

_POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'; "
    "img-src 'self' data:"
)


class ContentSecurityPolicyMiddleware:
    """Sets one strict policy on every portal page; `/v1` never passes through Django's middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer with the policy's header added."""
        response = self.get_response(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response
