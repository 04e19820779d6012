"""Use cases: each changes the store, then notifies the rooms.

REST and the command line call them. They take parsed values, know no HTTP, and raise errors that every caller can
translate.
"""
