"""Breaks a running product in every way we know, under load, and proves that its books are right afterwards.

`python -m tests.chaos` (or `make chaos`) runs all scenes and prints a table; `tests/test_chaos.py` runs it shortened.
"""
