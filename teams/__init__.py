"""Departments, teams, applications, members and their API keys; how a caller proves who it is.

Knows nothing of prices, models or backends: those apps import this one.
"""
