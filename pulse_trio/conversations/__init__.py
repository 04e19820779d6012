"""Use cases: each changes the store, then notifies the rooms.

REST calls them, and so does whatever else acts for a user: the command line today, bots and webhooks one day. They take
values that are parsed already, and raise errors that every caller can translate.
"""
