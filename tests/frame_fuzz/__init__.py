"""A fuzz of everything that bytes on the port may be, against the real process, while two others chat.

`python -m tests.frame_fuzz --seconds 600`; a visit that finds something is repeated with `--seed` and `--only`.
"""
