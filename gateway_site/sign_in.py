"""Signing in with a password, and changing it: the portal's only two places where one is entered."""

import logging
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView, PasswordChangeView
from django.db import transaction
from django.forms import BaseForm
from django.http import HttpRequest, HttpResponse
from django.urls import reverse_lazy
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache

from audit.admin_trail import actor_of, lock_facts, record_change
from gateway_site.sign_in_limit import address_of, count_attempt

logger = logging.getLogger(__name__)


class SignInView(LoginView):
    """The sign-in page."""

    template_name = "site/sign_in.html"

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Check the password, unless too many were tried."""
        wait_s = count_attempt(request, request.POST.get("username", ""))
        if wait_s is None:
            return super().post(request, *args, **kwargs)
        form = AuthenticationForm(request, initial={"username": request.POST.get("username", "")[:254]})
        return _too_many(self, form, wait_s)

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        """The page again; the log says from where, and nothing of what was entered."""
        logger.info("A sign-in failed.", extra={"address": address_of(self.request)})
        return super().form_invalid(form)


@method_decorator(never_cache, name="dispatch")
class PasswordView(PasswordChangeView):
    """The page for one's own password. Changing it ends all other sessions of this person."""

    template_name = "site/password.html"
    success_url = reverse_lazy("landing")

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Check the old password, unless too many were tried: a stolen session should not yield it."""
        wait_s = count_attempt(request, request.user.get_username())
        if wait_s is None:
            return super().post(request, *args, **kwargs)
        return _too_many(self, PasswordChangeForm(cast(User, request.user)), wait_s)

    @transaction.atomic
    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        """Set the password and record that it was replaced."""
        before = lock_facts(form.user)
        response = super().form_valid(form)
        record_change(actor_of(self.request), form.user, before)
        messages.success(self.request, "Your password was changed. Your other sessions have ended.")
        return response


def _too_many(view: Any, form: BaseForm, wait_s: int) -> HttpResponse:
    minutes = -(-wait_s // 60)
    context = view.get_context_data(form=form, wait_minutes=minutes)
    headers = {"Retry-After": str(wait_s)}
    response: HttpResponse = view.render_to_response(context, status=429, headers=headers)
    return response
