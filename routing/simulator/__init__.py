"""A process that plays an OpenAI-compatible provider.

Here live its deterministic answers, the faults it can be told to make, the log of what it truly served, and a
static fast path for benchmarks. It is a peer of the gateway, not a part of it: it imports neither Django nor
anything of this project, and the gateway reaches it over HTTP as it would any provider.
"""
