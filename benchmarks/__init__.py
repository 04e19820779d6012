"""Our server and its peers under one load generator. `docs/benchmarks.md` says what is measured and how to rerun it."""
