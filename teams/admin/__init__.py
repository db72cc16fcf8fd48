"""The administration's pages of people, teams and keys, and the base of pages that ask before they act."""

from teams.admin import keys, people  # noqa: F401 - their pages register themselves
