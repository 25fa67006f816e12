"""What it costs to know who sends a request: small PATCHes and HEADs with each kind of credential, beside open mode.

Everything on SQLite and a directory, one connection, interleaved in blocks: read the ratios. CPU is the gateway's own.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import jwt
from rich.table import Table

from bench.contenders import cpu_seconds
from bench.load import Connection, patch_fields
from tests.gateway import TUSGATE, Gateway
from tests.issuer import AUDIENCE, Issuer

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

KEY = "a key of the bench that is long enough for it"
PATCH_SIZE = 1024
BLOCK = 100
"""Requests of one kind in a row; many more of them than it takes for noise to hit all kinds alike."""


@dataclass
class Kind:
    """One kind of credential, at the gateway that takes it.

    Attributes:
        header: Authorization line, empty in open mode.
        seconds, cpu: of each block, by method.
    """

    name: str
    gateway: Gateway
    header: str
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"HEAD": [], "PATCH": []})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"HEAD": [], "PATCH": []})

    def __post_init__(self) -> None:
        self._connection = Connection(self.gateway.port)
        self._path = self._create()
        self._offset = 0

    def run(self, method: str) -> None:
        """Send one block and note what it took."""
        pid = self.gateway.pid
        begin, cpu = time.perf_counter(), cpu_seconds(pid)
        for _ in range(BLOCK):
            self._send(method)
        self.cpu[method].append(cpu_seconds(pid) - cpu)
        self.seconds[method].append(time.perf_counter() - begin)

    def _send(self, method: str) -> None:
        if method == "HEAD":
            answer = self._connection.ask("HEAD", self._path, f"{self.header}Content-Length: 0", 0)
        else:
            fields = self.header + patch_fields(self._offset, PATCH_SIZE)
            answer = self._connection.ask("PATCH", self._path, fields, PATCH_SIZE)
            self._offset += PATCH_SIZE
        assert answer.startswith(("HTTP/1.1 200", "HTTP/1.1 204")), answer

    def _create(self) -> str:
        return self._connection.create("/files", 1 << 40, self.header)


def show_identity(console: Console, home: Path, blocks: int) -> None:
    """Measure `blocks` blocks of each method with each kind, and print them."""
    with ExitStack() as stack:
        issuer = Issuer()
        key_file = home / "issuer.pem"
        key_file.write_text(issuer.public_pem)
        issuers = f'[{{"issuer":"{issuer.name}","audience":"{AUDIENCE}","key_file":"{key_file}","algorithm":"RS256"}}]'
        settings = {
            "TUSGATE_AUTH": "token,jwt,upload-token",
            "TUSGATE_JWT_ISSUERS": issuers,
            "TUSGATE_UPLOAD_TOKEN_KEYS": KEY,
        }
        free = stack.enter_context(Gateway(home / "open"))
        guarded = stack.enter_context(Gateway(home / "guarded", settings))
        kinds = [
            Kind("open", free, ""),
            Kind("static token", guarded, f"Authorization: Bearer {_static_token(guarded)}\r\n"),
            Kind("JWT, RS256", guarded, f"Authorization: Bearer {issuer.token(exp=int(time.time()) + 86_400)}\r\n"),
            Kind("upload token", guarded, f"Authorization: Bearer {_upload_token()}\r\n"),
        ]
        for _, method, kind in itertools.product(range(blocks), ("HEAD", "PATCH"), kinds):
            kind.run(method)
        console.print(_table(kinds))


def _static_token(gateway: Gateway) -> str:
    command = [*TUSGATE, "token", "create", "--owner", "bench"]
    made = subprocess.run(
        command, env=gateway.environment, cwd=gateway.home, check=True, capture_output=True, text=True
    )
    return made.stdout.strip()


def _upload_token() -> str:
    now = int(time.time())
    claims = {"aud": "tusgate-upload", "sub": "bench", "jti": os.urandom(8).hex(), "iat": now, "exp": now + 86_400}
    return jwt.encode(claims, KEY, "HS256")


def _table(kinds: list[Kind]) -> Table:
    table = Table(title=f"one request, µs; PATCH of {PATCH_SIZE} bytes", title_justify="left")
    for heading in ("", "HEAD", "of open", "its CPU", "of open", "PATCH", "of open", "its CPU", "of open"):
        table.add_column(heading, justify="left" if not heading else "right")
    for kind in kinds:
        cells = []
        for method in ("HEAD", "PATCH"):
            for mine, base in (
                (kind.seconds[method], kinds[0].seconds[method]),
                (kind.cpu[method], kinds[0].cpu[method]),
            ):
                # The quickest half: what else the machine does only ever adds.
                cost, floor = (statistics.mean(sorted(values)[: -(-len(values) // 2)]) for values in (mine, base))
                cells += [f"{cost / BLOCK * 1e6:.0f}", f"{cost / floor:.2f}" if floor else ""]
        table.add_row(kind.name, *cells)
    return table
