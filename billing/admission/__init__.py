"""Admission and settlement: what may be spent is reserved before a call, and what was spent is booked after it.

`windows`, `rules`, `refusals` and `account` decide and do no I/O; the scripts in `scripts/` decide in the store;
`links`, `flusher` and `admission` carry commands there from a worker's event loop; `rebuild`, `janitor` and
`verify` hold counters and ledger together. How a request is routed, and how a spool looks on disk, is not known here.
"""
