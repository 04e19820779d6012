"""Pulse on Trio: a real-time chat backend.

The way of a message:  edge/server → edge/websocket → conversations → rooms/hub → rooms/room
                       → rooms/writer → store → rooms/feed → rooms/subscription → rooms/connection → edge/server.
Imports go one way:    asgi, cli > workers > launch > app > edge > conversations > auth, rooms > store > database
                       > trio_psycopg > protocol > model, errors, settings, clock, ids.
Beside them:           program > terminal > client > protocol: what users run; it knows nothing of the server.
`conversations` and `rooms` know no SQL and no HTTP library, `protocol` does no I/O, and only `edge/server`
knows Hypercorn's inner classes. `docs/tour.md` follows one message through the code.
"""

__version__ = "0.3.0"
