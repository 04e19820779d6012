"""Client libraries on a bad network, against a real service that is killed: what they show is what the service has."""
