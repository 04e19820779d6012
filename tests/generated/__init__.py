"""A client that openapi-python-client generates from `/openapi.json`, in an environment of its own."""
