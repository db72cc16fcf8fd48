"""The settings as mypy's Django plugin loads them: the environment it needs, with values nothing uses."""

import os

for _name, _value in {
    "GATEWAY_SECRET_KEY": "typing",
    "GATEWAY_KEY_PEPPERS": "1:00",
    "GATEWAY_SPOOL_DIR": "spool",
    "DATABASE_URL": "postgresql://typing@localhost/typing",
    "REDIS_URL": "redis://localhost/0",
}.items():
    os.environ.setdefault(_name, _value)

from gateway_site.settings import *  # noqa: E402, F403
