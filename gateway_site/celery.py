"""The Celery application: `python -m celery -A gateway_site ...`."""

import os

from celery import Celery

from gateway_site.home import ENVIRONMENT_FILE, load_environment

load_environment(ENVIRONMENT_FILE)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")

app = Celery("gateway_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
