"""The model catalogue, backends and routes, and the way of one request (`pipeline.py`) to a provider and back."""
