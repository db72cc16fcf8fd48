"""`make bench`: the gateway and a bare pass-through proxy, measured side by side on one core each in turn.

Here live the proxy (yardstick.py), the two load generators (wrk.lua, load.py), the services of one run
(services.py), the loads and their rounds (measure.py) and the figures (figures.py). Nothing of the product
imports this folder. docs/reference/benchmark.md says what is compared and how to read it.
"""
