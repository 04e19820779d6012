#!/usr/bin/env bash
# Tries the wheel on another Python, as a user installs it: with the newest packages that it allows. Then two people
# chat through the service. `tools/try_python.sh python3.13`
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
work=$(mktemp -d)
server=""
trap '[ -z "$server" ] || kill "$server" 2>/dev/null; rm -rf "$work"' EXIT
chmod 755 "$work"
.venv/bin/python -c "import hatchling.build as b; b.build_wheel('$work')" >/dev/null
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$(echo "$work"/*.whl)[client]" 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
run="$work/venv/bin/pulse-trio"
cd "$work" # not where pulse_trio could be imported from
"$work/venv/bin/python" --version
"$run" --help >/dev/null
PULSE_DATA_DIR="$work/data" PULSE_LOG_FORMAT=json "$work/venv/bin/python" -W error::DeprecationWarning:pulse_trio -m pulse_trio \
    serve --port 0 2>log &
server=$!
url=""
while [ -z "$url" ]; do
    kill -0 "$server" || { cat log; exit 1; }
    url=$(sed -n 's/.*"url": "\([^"]*\)".*/\1/p' log)
    sleep 0.2
done
export PULSE_URL=$url PULSE_DATA_DIR="$work/data"
for name in alice bob; do
    echo "a password of $name" | "$run" user add "$name" --password - >/dev/null
done
"$run" doctor >/dev/null || true
PULSE_TOKEN=$("$run" token alice) "$run" send @bob "Hello, Bob!" >/dev/null
PULSE_TOKEN=$("$run" token bob) "$run" list | grep -q alice
kill "$server"
wait "$server" || { cat log; exit 1; }
server=""
if grep -E '"level": "(warning|error|critical)"|Traceback' log | grep -v '"running as root"'; then exit 1; fi
"$work/venv/bin/python" -m pip list --format=freeze | grep -iE '^(trio|msgspec|psycopg|quart|hypercorn|prometheus.client)=' |
    tr '\n' ' '
echo "works"
