"""Portal URLs. `/v1` (data_plane.py), `/livez`, `/readyz` and `/metrics` (operations.py) never get here."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import path

from gateway_site.sign_in import PasswordView, SignInView
from gateway_site.status_page import status
from gateway_site.views import landing

urlpatterns = [
    path("", landing, name="landing"),
    path("status/", status, name="status"),
    path("sign-in/", SignInView.as_view(), name="login"),
    path("sign-out/", LogoutView.as_view(), name="logout"),
    path("password/", PasswordView.as_view(), name="password_change"),
    path("admin/", admin.site.urls),
]
