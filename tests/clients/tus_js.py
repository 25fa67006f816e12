"""tus-js-client under Node, run as a process of its own."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.clients.readme import reporting

if TYPE_CHECKING:
    from tests.clients.payload import Payload
    from tests.servers.node import Node

TIMEOUT = 120.0
_SNIPPET = """
import {{ readFileSync }} from "node:fs";
import * as client from "tus-js-client";
const bytes = readFileSync({path});
const file = Object.assign(bytes, {{ size: bytes.length, name: "payload.bin", type: "application/x-payload" }});
const report = (line) => console.log(JSON.stringify(line));
"""


@dataclass(frozen=True)
class Run:
    """What one run of the client did.

    Attributes:
        url: where the upload lives.
        requests: method, status and `Upload-Offset` (as sent, else as answered) of each exchange.
        done: the client reports success.
        error: what it reports instead, if it lived to report.
    """

    url: str
    requests: list[tuple[str, int, int | None]]
    done: bool
    error: str | None
    exit_code: int

    def count(self, method: str) -> int:
        """Return how many requests of `method` were answered."""
        return sum(1 for sent, _, _ in self.requests if sent == method)


@dataclass(frozen=True)
class TusJs:
    """The client."""

    node: Node

    def __call__(self, endpoint: str, payload: Payload, **arguments: object) -> Run:
        """Upload `payload`; see upload.mjs for the arguments."""
        task = {"endpoint": endpoint, "file": str(payload.path), **arguments}
        return self._run([str(self.node.clients / "js" / "upload.mjs"), json.dumps(task)])

    def snippet(self, code: str, address: str, payload: Payload) -> Run:
        """Run a snippet of the README that uploads `file`, with `address` for that of the gateway."""
        script = _SNIPPET.format(path=json.dumps(str(payload.path))) + reporting(code, address)
        return self._run(["--input-type=module"], script)

    def _run(self, arguments: list[str], script: str | None = None) -> Run:
        ended = subprocess.run(
            [str(self.node.program), *arguments],
            input=script,
            cwd=self.node.clients,
            capture_output=True,
            timeout=TIMEOUT,
            text=True,
            check=False,
        )
        print(ended.stdout, ended.stderr)
        lines = [json.loads(line) for line in ended.stdout.splitlines()]
        done = next((line["done"] for line in lines if "done" in line), None)
        return Run(
            url=done or next((line["url"] for line in lines if "url" in line), ""),
            requests=[(line["request"], line["status"], line["offset"]) for line in lines if "request" in line],
            done=done is not None,
            error=next((line["error"] for line in lines if "error" in line), None),
            exit_code=ended.returncode,
        )
