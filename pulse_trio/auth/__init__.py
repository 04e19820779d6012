"""Identity: tokens, passwords, WebSocket tickets, and the user behind them. Knows no HTTP."""
