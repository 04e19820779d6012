"""The live side of conversations: connections, the order of messages, and the tasks that store them."""
