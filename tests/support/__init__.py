"""Shared parts of tests: clusters, server processes, clients. Nothing here is a test."""
