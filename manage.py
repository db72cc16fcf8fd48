#!/usr/bin/env python
"""Django's command line, with the environment that `make run` prepared when there is one."""

import os
import sys

from gateway_site.home import ENVIRONMENT_FILE, load_environment


def main() -> None:
    """Run one management command."""
    load_environment(ENVIRONMENT_FILE)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway_site.settings")
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
