#!/bin/sh
# Makes the mesh's key, and what the TURN server may know of it, in keys/ (readable by their owner alone). Once: a new key is a new mesh.
set -eu
cd "$(dirname "$0")"
image=${CAMPFIRE_IMAGE:-localhost/campfire:0.1.0}
[ ! -e keys ] || { echo "keys/ is there already: remove it to make new ones" >&2; exit 1; }
umask 077
mkdir -p keys/secrets
campfire() { docker run --rm --network none --user 0:0 -v "$PWD/keys:/keys:ro" "$image" "$@"; }
campfire key new >keys/psk
campfire key relay-secret --psk-file /keys/psk >"keys/secrets/$(campfire key fingerprint --psk-file /keys/psk)"
echo "keys/psk is the mesh's key: who holds it is in"
