"""The web client and the API documents."""
