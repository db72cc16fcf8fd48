"""Which backends are well: what this worker saw of them, and what the others tell."""
