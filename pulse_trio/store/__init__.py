"""Accounts, conversations and messages: the contract (`base`), in memory (`memory`), in PostgreSQL (`postgres`)."""
