"""ejabberd, from Debian's packages: its configuration and how it is started."""
