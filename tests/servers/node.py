"""Node and the client packages under tests/clients.

`python -m tests.servers.node install DIRECTORY` is `npm ci` there with whichever Node was found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.servers import acquire

CLIENTS = Path(__file__).parent.parent / "clients"


@dataclass(frozen=True)
class Node:
    """The Node program and the directory whose packages scripts may import.

    Attributes:
        program: where Node is.
        clients: directory with `package.json` and an installed `node_modules`.
    """

    program: Path
    clients: Path


def find() -> Node:
    """Return Node with the client packages installed. Raises acquire.MissingError."""
    program = acquire.find_node()
    if not all((CLIENTS / "node_modules" / name).exists() for name in ("tus-js-client", "esbuild", "@uppy")):
        raise acquire.MissingError(
            "tests/clients/node_modules is missing or old: `make tests/clients/node_modules` installs it"
        )
    return Node(program, CLIENTS)


def install(directory: Path) -> int:
    """Install exactly what the lock file in `directory` names. Returns npm's exit status."""
    node = acquire.find_node()
    environment = {**os.environ, "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [*_npm(node), "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    return subprocess.run(command, cwd=directory, env=environment, check=False).returncode


def _npm(node: Path) -> list[str]:
    in_wheel = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if in_wheel.exists():
        return [str(node), str(in_wheel)]
    on_path = shutil.which("npm")
    if on_path:
        return [on_path]
    raise acquire.MissingError("node is here but npm is not: install the package npm")


if __name__ == "__main__":
    try:
        sys.exit(install(Path(sys.argv[2])))
    except acquire.MissingError as missing:
        sys.exit(str(missing))
