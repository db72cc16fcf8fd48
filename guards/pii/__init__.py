"""Personal data: which kinds can be looked for, and how each is recognised."""
