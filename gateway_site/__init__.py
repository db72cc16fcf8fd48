"""The project: settings, URLs, the ASGI entry, Celery, embedded services, and the commands that run it all.

The other apps never import from here (see ARCHITECTURE.md for the one direction of imports).
"""
