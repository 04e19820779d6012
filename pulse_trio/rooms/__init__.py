"""The live side of conversations: who is connected, in what order messages go out, who stores them."""
