"""Benchmarks of our server and its peers with one load generator; `docs/benchmarks.md` describes them."""
