"""Who changed what: administrative events, appended and never altered.

Knows actors and objects by type, id and label only, so every other app may import it and it imports none.
"""
