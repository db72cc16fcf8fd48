"""How dates and times are shown in the portal, by language."""
