"""Use cases: what users do to conversations and accounts. Those that change the store then notify the rooms.

REST, the WebSocket and the command line call them. They take parsed values, know no HTTP, and raise errors that every
caller can translate.
"""
