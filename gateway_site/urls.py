"""Portal URLs. `/v1` (data_plane.py), `/livez`, `/readyz` and `/metrics` (operations.py) never get here."""

from django.contrib import admin
from django.contrib.auth import views as auth_views
from django.urls import path

from gateway_site.status_page import status
from gateway_site.views import landing, password_change

urlpatterns = [
    path("", landing, name="landing"),
    path("status/", status, name="status"),
    path("sign-in/", auth_views.LoginView.as_view(template_name="site/sign_in.html"), name="login"),
    path("sign-out/", auth_views.LogoutView.as_view(), name="logout"),
    path("admin/password_change/", admin.site.admin_view(password_change)),  # before the one it wraps
    path("admin/", admin.site.urls),
]
