"""System checks with stable ids: a setting that could be wrong is found at start, not at the first call."""
