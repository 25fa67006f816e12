"""A gateway for which the test says what each name leads to: it has an /etc/hosts of its own, and no other resolver.

The files are put over those of the machine in a mount namespace, so that nothing in the gateway is changed.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.gateway import Gateway

_NAMESPACE = ["unshare", "--mount"] if os.getuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
_OVERLAY = 'mount --bind "$0" /etc/hosts && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"'


class Names:
    """Which name leads to which address, for one gateway. The test is skipped where namespaces are not allowed."""

    def __init__(self, home: Path) -> None:
        self._hosts = home / "hosts"
        self._order = home / "nsswitch.conf"
        self._order.write_text("hosts: files\n")
        self.lead({})
        trying = subprocess.run([*self._overlay, "true"], capture_output=True, text=True, check=False)
        if trying.returncode != 0:
            pytest.skip(f"no namespace of our own: {trying.stderr.strip()}")

    @property
    def _overlay(self) -> list[str]:
        return [*_NAMESPACE, "sh", "-c", _OVERLAY, str(self._hosts), str(self._order)]

    def lead(self, addresses: Mapping[str, str]) -> None:
        """Lead these names to these addresses from now on; no other name but `localhost` is known."""
        lines = [f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **addresses}.items()]
        self._hosts.write_text("".join(lines))  # in place: what is mounted is this very file

    def give_to(self, gateway: Gateway) -> None:
        """Have `gateway` look names up here; counts from its next start."""
        gateway._command = [*self._overlay, *gateway._command]
