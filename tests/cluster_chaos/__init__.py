"""Chaos in a cluster: workers behind one port are killed and stopped, the bus with them, while people chat.

A round is drawn from one seed. What happens in it also depends on the scheduling of processes, so a seed that failed
need not fail again.
"""
