"""The server: our connection class inside Hypercorn. Nothing else knows Hypercorn's inner classes.

Why a WebSocket goes through Hypercorn at all: REST and WebSockets share one port, one origin and one TLS certificate;
operators start the service with the `hypercorn` command and its settings; and the framework answers the handshake, with
the app's own routes, errors and log. A listener of our own would need a second port (or an HTTP parser of its own), TLS
settings, a drain and an access log, and REST would stay here. HTTP/2 is off: its streams would be counted by no limit.

What we replace is the connection after the handshake, because there the framework is slow: it costs some 60 µs of CPU
for each frame out, and three tasks for each message in (docs/architecture.md has the measurements).

- `framework_connection`: Hypercorn's part of a connection
- `poller`: one task that reads all WebSockets over plain TCP; `deadlines`: their pings and time-outs
- `tcp_connection`: reads, pings, closes; `stream_writer`: all writes; `gate`: admits connections and requests
- `http_protocol`, `request_head`, `plain_responses`: requests, before the framework sees them
- `burst_listener`: accepts; `shared_load`: the connections of each worker of this machine
- `request_turns`: how many requests begin at a time; `idle_connections`: those that wait for one
- `http_stream`, `handler_scope`: cancel the handler of a request when its client has gone
- `websocket_stream`, `websocket_handshake`, `frame_splitter`, `frame_guard`, `app_queue`: WebSockets
- `transport`, `socket_transport`: what the routes and rooms see of a WebSocket
- `client_connection`: the contract by which the parts know their connection, so that imports stay without a circle
- `workarounds`: installs all of this in a supported version of Hypercorn; `worker`: listens, serves, drains
"""

from pulse_trio.edge.server.workarounds import Supervised, install, is_supported, listen_for_metrics
from pulse_trio.edge.server.worker import (
    address,
    advise_on_address,
    bind,
    load_certificate,
    renew_certificate,
    serve,
    wrap,
)

__all__ = [
    "Supervised",
    "address",
    "advise_on_address",
    "bind",
    "install",
    "is_supported",
    "listen_for_metrics",
    "load_certificate",
    "renew_certificate",
    "serve",
    "wrap",
]
