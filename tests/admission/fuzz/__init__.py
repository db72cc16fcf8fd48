"""The protocol of admission as a whole under random faults: real scripts and code, a real store, a real database.

`store` is a server that is flushed, killed and set back; `tables` is the ledger's side, in cheap tables of its
own; `tenants` are departments and their rules; `worker` is a process with its spool; `world` is all of it on one
clock; `works` and `faults` are what can happen, `simulation` draws it from a seed, `invariants` says what must hold.
"""
