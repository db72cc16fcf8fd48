"""System checks with stable ids: a setting that could be wrong is found at start, not at the first call.

E stops every command but `migrate --skip-checks`, W is printed. Reference: docs/reference/checks.md. What can only be
found while a setting is read (a number that is none, two forms at once) is refused by gateway_site/env.py instead.
"""

from gateway_site.checks import places, secrets, stores, web

__all__ = ["places", "secrets", "stores", "web"]
