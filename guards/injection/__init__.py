"""Prompt injection: texts that try to take a model over. A linear model over character n-grams, behind a normaliser."""
