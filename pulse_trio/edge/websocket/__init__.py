"""The WebSocket routes: authenticate, subscribe, read frames."""
