"""What a client touches: REST, the WebSocket, who may use them, and the server under them."""
