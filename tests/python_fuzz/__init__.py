"""Fuzz of the Python client: the real service, killed and restarted, behind bad networks, under low limits.

A round is drawn from one seed. What happens in it also depends on the scheduling of processes, so a seed that failed
need not fail again; its settings and plans are the same.
"""
