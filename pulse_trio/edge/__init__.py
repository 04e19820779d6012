"""The edge: REST, the WebSocket, the limits on both, and the server under them."""
