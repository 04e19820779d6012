"""The terminal program: `pulse-trio chat | tail | send | list | login | logout | register`, docs/terminal.md.

commands   the command line; `access` finds the server, the token and the conversation, `exits` says how it ends
chat       the conversation on the screen: screen (what is drawn) ← editor (the line) ← keys (what was pressed)
text       what others wrote, made safe for a terminal, and how wide it is
streams    standard input and output without blocking the loop
"""
