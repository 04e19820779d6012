"""Programs of npm against the client and the documents of the service; `make test-npm` installs them first."""
