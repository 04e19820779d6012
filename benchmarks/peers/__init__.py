"""The servers that ours is measured against, each as its own documentation would have it written."""
