#!/usr/bin/env bash
# Builds the image of Dockerfile and runs it: as its own account, with its health check, until SIGTERM.
#
# It needs root and Debian's buildah and debootstrap, but no image registry, no engine and no right to make namespaces:
# the base is made of Debian's packages, and the service runs in a chroot with the image's files and account. With an
# engine, `docker build -t pulse-trio .` and `docker run` do the same from the base that Dockerfile names.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$PWD/build/container
fail() { echo "container: $*" >&2; exit 1; }
skip() { echo "container: not tried: $*" >&2; exit 77; }  # this machine cannot; nothing is wrong with the image
for program in buildah debootstrap curl; do
    command -v $program >/dev/null || skip "$program is not installed (Debian: apt-get install $program)"
done
[ "$(id -u)" = 0 ] || skip "it needs root"
mkdir -p "$work/wheels"
storage() { buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs "$@"; }

if ! storage inspect --type image localhost/base >/dev/null 2>&1; then
    echo "Making a base of Debian's packages (once, a minute or two) ..."
    rm -rf "$work/root"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$work/root" >"$work/debootstrap.log" ||
        skip "debootstrap failed: $(tail -n 1 "$work/debootstrap.log")"
    base=$(storage from scratch) || skip "buildah cannot make a container here"
    storage copy --quiet "$base" "$work/root" / >/dev/null || skip "buildah cannot fill a container here"
    storage commit --quiet "$base" localhost/base >/dev/null
    storage rm "$base" >/dev/null
    rm -rf "$work/root"
fi

echo "Fetching the packages of requirements.lock ..."
base=$(storage from localhost/base)
version=$(storage run --isolation chroot "$base" -- python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    skip "buildah cannot run a container here"
storage rm "$base" >/dev/null
.venv/bin/python -m pip download --quiet --quiet --disable-pip-version-check --require-hashes --only-binary=:all: \
    --python-version "$version" --dest "$work/wheels" -r requirements.lock

echo "Building the image ..."
storage build --quiet --isolation chroot --build-arg BASE=localhost/base \
    --build-arg PIP_OPTIONS="--no-index --find-links=/wheels" --volume "$work/wheels:/wheels:ro" \
    --format docker --tag localhost/pulse-trio . >"$work/build.log" || fail "the build failed; see $work/build.log"

inspect() { storage inspect --type image --format "$1" localhost/pulse-trio; }
[ "$(inspect '{{.Docker.Config.User}}')" = 10001:10001 ] || fail "the image runs as another account"
inspect '{{.Docker.Config.Healthcheck}}' | grep -q healthz || fail "the image has no health check"

service=$(storage from localhost/pulse-trio)
server=""
cleanup() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    storage rm "$service" >/dev/null 2>&1 || true
}
trap cleanup EXIT
inside() { storage run --isolation chroot "$service" -- "$@"; }
inside sh -c '! command -v gcc && ! command -v make && ! ls /opt/pulse-trio/bin/pip*' 2>/dev/null ||
    fail "the image holds build tools"
[ "$(inside id -u)" = 10001 ] || fail "the service would run as another account"
inside sh -c '! touch /opt/pulse-trio/x && touch /var/lib/pulse-trio/x && rm /var/lib/pulse-trio/x' 2>/dev/null ||
    fail "the account can write what it should not, or not what it should"

echo "Running it ..."
inside pulse-trio serve --host 127.0.0.1 --port 0 >"$work/log" 2>&1 &
server=$!
for _ in $(seq 600); do
    port=$(sed -n 's/.*"address": "127.0.0.1:\([0-9]*\)".*/\1/p' "$work/log")
    [ -z "$port" ] || break
    kill -0 "$server" 2>/dev/null || fail "the service ended: $(cat "$work/log")"
    sleep 0.2
done
[ -n "$port" ] || fail "the service did not start: $(cat "$work/log")"
curl --silent --show-error --fail --output /dev/null "http://127.0.0.1:$port/readyz"
person='{"username": "alice", "password": "a password of alice"}'
curl --silent --show-error --fail --output /dev/null --json "$person" "http://127.0.0.1:$port/api/auth/register"
# The image's own health check, on the port of this run.
inside python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:$port/healthz', timeout=4)"
pid=$(pgrep --uid 10001 --full "pulse-trio serve --host 127.0.0.1 --port 0" | tail -n 1) # the wrappers are older
kill -TERM "$pid"
wait "$server" || fail "the service ended with exit code $?: $(cat "$work/log")"
server=""
grep -q '"stopped"' "$work/log" || fail "the service did not stop in order: $(cat "$work/log")"
echo "The image works: $(du -sh "$(storage mount "$service")" | cut -f1) with its base."
