"""The server: our connection class inside Hypercorn, and nothing else that knows Hypercorn's inner classes."""

from pulse_trio.edge.server.connection import install
from pulse_trio.edge.server.worker import bind, serve, wrap

__all__ = ["bind", "install", "serve", "wrap"]
