# Sourced by the scripts beside it: where things are kept, and how progress is said.
# shellcheck shell=bash

offline=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Outside the checkout, so that a fresh clone finds it; nothing in it is needed to be kept.
cache=${CAMPFIRE_KIND_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/campfire/kind-tests}
# What runs now (sockets, pids, containers); gone with the machine, or with `cluster clean`.
run=${CAMPFIRE_KIND_RUN:-/run/campfire-kind-tests}

kubernetes_version=v1.35.4
helm_version=v4.1.4
kwok_version=v0.7.0
krew_version=v0.5.0

kubernetes_key=$(cat "$offline"/kubernetes/go.mod "$offline"/kubernetes/go.sum "$offline"/kubernetes/coredns/main.go "$offline"/clients.txt | sha256sum | cut -c1-12)
kubernetes_bin=$cache/kubernetes-$kubernetes_version-$kubernetes_key
tools_bin=$cache/tools

say() { printf '[%s] %s\n' "$(date +%H:%M:%S)" "$*" >&2; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Runs a command whose output matters only when it fails, and says every 20 seconds that it still runs.
# usage: quietly "what is being done" COMMAND...
quietly() {
  local what=$1 log start=$SECONDS ticker status=0
  shift
  log=$(mktemp)
  say "$what …"
  # Its sleep outlives it by seconds: it may hold neither a lock nor the pipe that somebody reads our lines from.
  (
    [ -z "${lock_fd:-}" ] || exec {lock_fd}>&-
    while sleep 20 >/dev/null 2>&1; do say "  still at it, $((SECONDS - start)) s: $what"; done
  ) &
  ticker=$!
  "$@" >"$log" 2>&1 </dev/null || status=$?
  kill "$ticker" 2>/dev/null || true
  wait "$ticker" 2>/dev/null || true
  if [ "$status" != 0 ]; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    fail "$what: failed with status $status (the end of its output is above)"
  fi
  rm -f "$log"
  [ $((SECONDS - start)) -lt 2 ] || say "  done in $((SECONDS - start)) s"
}

# One at a time on this machine: two test runs may ask for the same things at once.
# usage: only_one NAME     (held until the script ends)
only_one() {
  mkdir -p "$cache"
  exec {lock_fd}>"$cache/.lock-$1"
  if ! flock -n "$lock_fd"; then
    say "waiting for another run that makes the same ($1) …"
    flock "$lock_fd"
  fi
}
