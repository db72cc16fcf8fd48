"""Money: prices, cost in integer nano-dollars, token counts, the spool and the ledger it is shipped to.

Refers to models and backends by string foreign keys; how a request is routed is not known here.
"""
