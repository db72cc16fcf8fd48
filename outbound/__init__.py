"""HTTP/1.1 to backends: connections, their pool, and how they are opened. Knows addresses, and nothing of models,
teams or money. Why it is our own: docs/adr/0002."""
