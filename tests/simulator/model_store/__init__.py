"""A model of PostgreSQL in memory, on which the real store of `tocsin.store.postgres` runs.

Only what is inside of a connection is a model: the rows, transactions, locks and notifications, and for each statement
of the store a function that does what the statement does. Who holds which log, what is read when, what is settled and
what is told to others is decided by the store itself, unchanged.
"""
