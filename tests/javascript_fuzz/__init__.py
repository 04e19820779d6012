"""The JavaScript client on a bad network, with a service that is killed: it shows what the service has."""
