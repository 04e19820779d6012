"""Several processes of the service on one machine: a supervisor, and workers that it starts, watches and replaces.

The supervisor runs no event loop of Trio and no threads: the kernel ends its children when the *thread* that started
them ends, and a fork inside a running event loop could not run another one. It owns what outlives a worker: the
embedded PostgreSQL, the sockets that are listened on, the private sockets for metrics, the table of connections.
Workers are started by exec, not fork, so that a rolling restart gets new code and no worker inherits a lock.

- `fleet`: which worker to start, drain or kill, as a state machine without I/O
- `supervisor`: its loop, signals, and what it owns
- `assignment`: what a worker is given on its standard input
- `worker`: the program of a worker
"""
