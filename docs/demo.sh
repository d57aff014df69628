#!/bin/sh
# The demo: a walrusd in a temporary home and one session with a small local model. It removes everything at its end.
set -eu

home=$(mktemp -d "${TMPDIR:-/tmp}/walrus-demo.XXXXXX")
daemon=

clean_up() {
    status=$?
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        kill "$daemon"
        wait "$daemon" || true
    fi
    if [ "$status" -ne 0 ] && [ -s "$home/daemon.log" ]; then
        echo "The demo failed. The end of the daemon's log:" >&2
        tail -n 20 "$home/daemon.log" >&2
    fi
    rm -rf "$home"
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' HUP INT PIPE TERM

say() { printf '\n%s\n' "$*"; }
# Prints a command as a person types it, and runs it.
try() {
    printf '$'
    for word in "$@"; do
        case $word in
        *[!a-zA-Z0-9_./-]*) printf ' "%s"' "$word" ;;
        *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$@"
}

unset WALRUS_SOCKET
export WALRUS_HOME="$home"
mkdir "$home/agents"
cat >"$home/walrus.toml" <<'TOML'
[providers.here]
kind = "local"
models = ["smollm2"]

[models.smollm2]
context_window = 2048
max_output_tokens = 120

[defaults]
model = "smollm2"
TOML
printf 'You are a friendly walrus. Answer in one or two short sentences.\n' >"$home/agents/walrus.md"

say "1. Start walrusd in a temporary home: $home"
printf '$ walrusd &\n'
walrusd 2>"$home/daemon.log" &
daemon=$!
tries=0
until walrusctl ping >/dev/null 2>&1; do
    tries=$((tries + 1))
    if [ "$tries" -gt 100 ] || ! kill -0 "$daemon" 2>/dev/null; then
        exit 1
    fi
    sleep 0.1
done
try walrusctl ping

say "2. Create a session, and talk. The model is small (135 million parameters, 94 MB): it shows that everything works, and is not clever."
try walrusctl session create walrus
try walrusctl stream 1 "Hello! Who are you?"
try walrusctl stream 1 "Name one animal that lives in the sea."

say "3. Everything is in the session's log, on disk, written before it was acknowledged."
try walrusctl session attach 1 --no-follow

say "4. Stop."
printf '$ kill %s\n' "$daemon"
kill "$daemon"
wait "$daemon"
daemon=
say "Done. make run starts walrusd on your own home; docs/tour.md is the next step."
