"""Pulse on Trio: a real-time chat backend.

The way of a message:  edge/socket → rooms/hub → rooms/room → rooms/writer → store
                       → bus → rooms/room → rooms/member → edge/socket.
Imports go one way:    asgi, cli > launch > app > edge > rooms > store, bus > trio_psycopg
                       > protocol, errors, settings, clock, ids.
`rooms` knows no SQL and no HTTP library, `protocol` does no I/O, and only `edge/hypercorn.py`
knows Hypercorn's inner classes. `docs/architecture.md` has the tour.
"""

__version__ = "0.1.0"
