"""Tokens, passwords and tickets."""
