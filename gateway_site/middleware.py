"""The portal's middleware: one Content-Security-Policy, and no NUL in a query."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

_POLICY = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'; "
    "img-src 'self' data:"
)


class RefuseNulMiddleware:
    """A NUL in a query is nobody's search, and PostgreSQL takes it in no text: 400 instead of a failing page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, or refuse."""
        if "%00" in request.META.get("QUERY_STRING", ""):
            return HttpResponse("The query holds a NUL character.", status=400, content_type="text/plain")
        return self.get_response(request)


class ContentSecurityPolicyMiddleware:
    """Sets one strict policy on every portal page; `/v1` never passes through Django's middleware."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer with the policy's header added."""
        response = self.get_response(request)
        response.headers["Content-Security-Policy"] = _POLICY
        return response
