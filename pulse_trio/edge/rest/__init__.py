"""The REST API: a blueprint for each resource, one shape for every error, OpenAPI from the code."""
