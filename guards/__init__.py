"""What is looked for in texts on their way to a model: personal data, secrets, and what a company will not have sent.

Knows texts, and where in a request they stand; nothing of HTTP, models or money.
"""
