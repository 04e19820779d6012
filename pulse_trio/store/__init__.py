"""Where accounts, conversations and messages are kept: the contract and what fulfils it."""
