"""Starts Debian's ejabberd on a free port, with all its files in TMPDIR. It needs no root and starts no service.

`ejabberdctl` runs it under an account of its own and on a node with a name, which needs `epmd`, a daemon that stays.
This runs the same program without a name. What Debian's defaults leave to the machine is set: no busy waiting of idle
schedulers, which would be counted as work (`+sbwt none`), and no delay of small writes to PostgreSQL (`nodelay`:
otherwise the first statements of each connection take 50 to 86 ms).
"""

import os
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).with_name("ejabberd.yml")

folder = Path(tempfile.gettempdir())
config = TEMPLATE.read_text()
for name in ("PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PORT"):
    config = config.replace(f": {name}", f": {os.environ[name]}")
(folder / "ejabberd.yml").write_text(config)
libraries = next(Path("/usr/lib").glob("*/ejabberd-*/ebin/ejabberd.app")).parents[2]
environment = {
    **os.environ,
    "EJABBERD_CONFIG_PATH": str(folder / "ejabberd.yml"),
    "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
    "ERL_LIBS": str(libraries),
    "ERL_CRASH_DUMP": "/dev/null",
    "ERL_MAX_PORTS": "32000",
    "HOME": str(folder),
}
command = ["erl", "-noinput", "+K", "true", "+P", "250000", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
command += ["-kernel", "inet_default_connect_options", "[{nodelay,true}]", "-mnesia", "dir", f'"{folder}/mnesia"']
os.execvpe("erl", [*command, "-s", "ejabberd"], environment)
