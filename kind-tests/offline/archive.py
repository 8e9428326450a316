#!/usr/bin/env python3
"""Packs a folder into a container image of one layer: a docker archive, as `docker load` and `ctr images import` read it.

usage: archive.py NAME OUT.tar FOLDER [--entrypoint PROGRAM] [--user UID]
"""

import argparse
import hashlib
import io
import json
import os
import tarfile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("out")
    parser.add_argument("folder")
    parser.add_argument("--entrypoint")
    parser.add_argument("--user", default="")
    args = parser.parse_args()

    def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = 0
        return member

    # Names of its own: another run may be making the same.
    layer_path, new_path = (f"{args.out}.{os.getpid()}.{part}" for part in ("layer", "new"))
    with tarfile.open(layer_path, "w") as layer:
        for entry in sorted(os.listdir(args.folder)):
            layer.add(os.path.join(args.folder, entry), entry, filter=owned_by_root)
    with open(layer_path, "rb") as layer_file:
        layer_digest = hashlib.file_digest(layer_file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else sha256(layer_file)
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": [args.entrypoint] if args.entrypoint else None,
            "User": args.user,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "archive.py"}],
    }
    config_bytes = json.dumps(config).encode()
    config_name = f"{hashlib.sha256(config_bytes).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [args.name], "Layers": ["layer.tar"]}]
    with tarfile.open(new_path, "w") as out:
        for name, data in ((config_name, config_bytes), ("manifest.json", json.dumps(manifest).encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
        out.add(layer_path, "layer.tar", filter=owned_by_root)
    os.remove(layer_path)
    os.rename(new_path, args.out)


def sha256(stream: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


if __name__ == "__main__":
    main()
