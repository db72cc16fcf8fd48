"""Settings say where things are and how big; policy is rows in the database, never a setting.

Every variable is listed with its meaning in docs/reference/settings.md.
"""

from pathlib import Path

from redis.backoff import NoBackoff
from redis.retry import Retry

from gateway_site import env

BASE_DIR = Path(__file__).resolve().parent.parent

# --- Security -------------------------------------------------------------------------------------------
SECRET_KEY = env.text("GATEWAY_SECRET_KEY")
DEBUG = env.flag("GATEWAY_DEBUG", default=False)
ALLOWED_HOSTS = list(env.items("GATEWAY_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]"))
CSRF_TRUSTED_ORIGINS = list(env.items("GATEWAY_CSRF_TRUSTED_ORIGINS"))
GATEWAY_HTTPS = env.flag("GATEWAY_HTTPS", default=False)  # true behind TLS: secure cookies and HSTS
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = GATEWAY_HTTPS
# The proxy in front terminates TLS, and must set this header itself, whatever the caller sent.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if GATEWAY_HTTPS else None
SECURE_HSTS_SECONDS = 31_536_000 if GATEWAY_HTTPS else 0
SECURE_SSL_REDIRECT = GATEWAY_HTTPS
# Whether HSTS covers other names of the domain, and browsers' preload list, is the owner of the domain's business.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = env.integer("GATEWAY_SESSION_HOURS", 12, least=1) * 3600

# Versioned peppers of API key digests, "1:<hex>,2:<hex>"; new keys use the highest version.
GATEWAY_KEY_PEPPERS = env.text("GATEWAY_KEY_PEPPERS")
# Fernet keys of stored backend credentials; the first encrypts, all decrypt.
GATEWAY_FIELD_KEYS = env.items("GATEWAY_FIELD_KEYS")

# What a scraper of /metrics presents; empty: there are no metrics to be had.
GATEWAY_METRICS_TOKEN = env.text("GATEWAY_METRICS_TOKEN", "")

# --- Applications, in the order of imports (ARCHITECTURE.md) --------------------------------------------
INSTALLED_APPS = [
    "gateway_site.apps.GatewayAdminConfig",
    "gateway_site.apps.PeopleConfig",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.postgres",
    "django.contrib.staticfiles",
    "rest_framework",
    "audit",
    "teams",
    "billing",
    "guards",
    "routing",
    "gateway_site.apps.GatewaySiteConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "gateway_site.middleware.ContentSecurityPolicyMiddleware",
    "gateway_site.middleware.RefuseNulMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "gateway_site.urls"
ASGI_APPLICATION = "gateway_site.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

# --- Database -------------------------------------------------------------------------------------------
# "default" is the runtime role, which may not change ledger and audit rows; "owner" makes the schema.
# CONN_MAX_AGE stays 0: persistent connections leak under ASGI.
_DATABASE_URL = env.text("DATABASE_URL")
DATABASES = {
    "default": env.database("DATABASE_URL", _DATABASE_URL),
    "owner": env.database("DATABASE_OWNER_URL", env.text("DATABASE_OWNER_URL", _DATABASE_URL)),
}
DATABASES["owner"]["TEST"] = {"MIRROR": "default"}
DATABASE_ROUTERS = ["gateway_site.database.SchemaOwnerRouter"]
for _database in DATABASES.values():
    # A server that vanished without a word is given up within seconds, or its threads would wait for a quarter of
    # an hour; a new one (a failover) is then found by the next query.
    _database.setdefault("OPTIONS", {}).update(
        connect_timeout=5,
        tcp_user_timeout=10_000,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
    )

# --- Redis or Valkey, Celery ----------------------------------------------------------------------------
REDIS_URL = env.text("REDIS_URL")
# The counters of limits and budgets may have a store of their own; it alone may be a cluster.
GATEWAY_COUNTERS_URL = env.text("GATEWAY_COUNTERS_URL", REDIS_URL)
# Celery spells a unix socket in its own way.
CELERY_BROKER_URL = (
    REDIS_URL.replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")
    if REDIS_URL.startswith("unix://")
    else REDIS_URL
)
CACHES = {
    "default": {
        "BACKEND": "gateway_site.cache.CounterCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "portal",
        "OPTIONS": {"socket_timeout": 1.0, "socket_connect_timeout": 1.0, "retry": Retry(NoBackoff(), 1)},
    }
}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_TIME_LIMIT = 600
CELERY_TASK_SOFT_TIME_LIMIT = 540
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = {
    "create-ledger-partitions": {"task": "billing.tasks.create_ledger_partitions", "schedule": 6 * 3600},
    "prune-key-changes": {"task": "teams.tasks.prune_key_changes", "schedule": 3600},
    "show-sign-of-life": {
        "task": "gateway_site.tasks.show_sign_of_life",
        "schedule": 60,
        "options": {"expires": 60},
    },
    "clear-sessions": {"task": "gateway_site.tasks.clear_sessions", "schedule": 24 * 3600},
}

# --- Data plane: bounds and places ----------------------------------------------------------------------
GATEWAY_SPOOL_DIR = Path(env.text("GATEWAY_SPOOL_DIR"))
GATEWAY_SPOOL_MAX_BYTES = env.integer("GATEWAY_SPOOL_MAX_BYTES", 2 * 1024**3, least=192 * 1024**2)
GATEWAY_SPOOL_SEGMENT_BYTES = env.integer("GATEWAY_SPOOL_SEGMENT_BYTES", 64 * 1024**2, least=1024**2)
GATEWAY_MAX_BODY_BYTES = env.integer("GATEWAY_MAX_BODY_BYTES", 20 * 1024**2, least=1024)
GATEWAY_MAX_ANSWER_BYTES = env.integer("GATEWAY_MAX_ANSWER_BYTES", 32 * 1024**2, least=1024)
# How often each worker asks PostgreSQL whether the configuration has changed.
GATEWAY_CONFIGURATION_POLL_MS = env.integer("GATEWAY_CONFIGURATION_POLL_MS", 500, least=10)
# Refusals of one key and reason that get a row of their own each minute, per worker; the rest share one.
GATEWAY_REFUSAL_ROWS = env.integer("GATEWAY_REFUSAL_ROWS", 20, least=1)
# The most calls of one team that wait at one limit or budget, and of all teams in one worker.
GATEWAY_QUEUE_TEAM = env.integer("GATEWAY_QUEUE_TEAM", 100, least=0)
GATEWAY_QUEUE_WORKER = env.integer("GATEWAY_QUEUE_WORKER", 1_000, least=0)
# The most end users of one key that have counters of their own in a day, where limits or budgets are for each.
GATEWAY_KEY_END_USERS = env.integer("GATEWAY_KEY_END_USERS", 100_000, least=1)
# The most of one request; past it, it is refused before anything is spent.
GATEWAY_MAX_MESSAGES = env.integer("GATEWAY_MAX_MESSAGES", 10_000, least=1)
GATEWAY_MAX_TOOLS = env.integer("GATEWAY_MAX_TOOLS", 512, least=1)
GATEWAY_MAX_CHOICES = env.integer("GATEWAY_MAX_CHOICES", 128, least=1)
GATEWAY_MAX_INPUTS = env.integer("GATEWAY_MAX_INPUTS", 2_048, least=1)
GATEWAY_MAX_TOKENS = env.integer("GATEWAY_MAX_TOKENS", 1_000_000, least=1)
GATEWAY_ENTRA_AUTHORITY = env.text("GATEWAY_ENTRA_AUTHORITY", "https://login.microsoftonline.com")
GATEWAY_MAX_ATTEMPTS = env.integer("GATEWAY_MAX_ATTEMPTS", 3, least=1)
GATEWAY_GUARD_S = env.integer("GATEWAY_GUARD_S", 5, least=1)
GATEWAY_RETRY_S = env.integer("GATEWAY_RETRY_S", 60, least=0)
GATEWAY_MAX_STREAM_S = env.integer("GATEWAY_MAX_STREAM_S", 3_600, least=1)
# Whether answers name their backend and their cost in x-gateway-backend and x-gateway-cost-usd.
GATEWAY_SHOW_BACKEND = env.flag("GATEWAY_SHOW_BACKEND", default=True)
GATEWAY_SHOW_COST = env.flag("GATEWAY_SHOW_COST", default=True)
GATEWAY_KEEPALIVE_S = env.integer("GATEWAY_KEEPALIVE_S", 15, least=1)
GATEWAY_HEAD_S = env.integer("GATEWAY_HEAD_S", 30, least=1)
GATEWAY_SHUTDOWN_S = env.integer("GATEWAY_SHUTDOWN_S", 30, least=1)
# host:port pairs of backends that may use plain http, loopback or private addresses.
GATEWAY_PRIVATE_BACKENDS = frozenset(env.items("GATEWAY_PRIVATE_BACKENDS"))
# Networks of the proxies in front of us, in CIDR form: their X-Forwarded-For is believed, nobody else's.
GATEWAY_TRUSTED_PROXIES = env.items("GATEWAY_TRUSTED_PROXIES")
# Where `file:` references of backend credentials may point to.
GATEWAY_CREDENTIALS_DIR = Path(env.text("GATEWAY_CREDENTIALS_DIR", "/run/secrets"))

# --- People ---------------------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["teams.auth_backends.RoleBackend"]
# How many passwords may be tried in a time, right ones included: for one user name, and from one address.
GATEWAY_SIGN_IN_PER_NAME = env.rate("GATEWAY_SIGN_IN_PER_NAME", "10/10m")
GATEWAY_SIGN_IN_PER_ADDRESS = env.rate("GATEWAY_SIGN_IN_PER_ADDRESS", "300/10m")
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "landing"
LOGOUT_REDIRECT_URL = "landing"

# --- Pages ----------------------------------------------------------------------------------------------
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = ["gateway_site.formats"]
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = env.text("GATEWAY_STATIC_ROOT", "") or None  # where `collectstatic` puts them, if it is run
WHITENOISE_USE_FINDERS = STATIC_ROOT is None  # else they are served from where they lie

# --- Logs: one JSON object a line, with the request id; docs/reference/logs.md --------------------------
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "gateway_site.logs.JsonFormatter"}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stdout"], "level": env.choice("GATEWAY_LOG_LEVEL", "INFO", LOG_LEVELS)},
    "loggers": {
        "uvicorn.access": {"level": "WARNING"},
        "httpx": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},
    },
}

REST_FRAMEWORK = {
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
}
