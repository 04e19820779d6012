"""What tests share: clusters, server processes, clients. Nothing here is a test."""
