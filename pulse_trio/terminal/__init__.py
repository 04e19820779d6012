"""The terminal program: `pulse-trio chat | tail | send | list | login | logout | register`, docs/terminal.md.

commands   the command line; `access` finds the server, the token and the conversation, `exits` ends the program
chat       a conversation on the screen: screen (draws) ← editor (the input line) ← keys (key presses)
text       makes text of others safe for a terminal, and measures it
streams    standard input and output without blocking the loop
"""
