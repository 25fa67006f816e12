"""The JSON API of files, and their downloads, below `/api/v1`.

Delete this package and one line of `app.py` and the gateway takes uploads and hands out nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.web.api.door import Door
from tusgate.web.api.files import FilesApi
from tusgate.web.api.openapi import Reference
from tusgate.web.gate import Gate, OpenToAll
from tusgate.web.location import TrustedProxies

if TYPE_CHECKING:
    from aiohttp import web

    from tusgate.ports import Authority
    from tusgate.service.files import Files
    from tusgate.web.config import WebConfig


def add_api(app: web.Application, config: WebConfig, files: Files, authority: Authority | None = None) -> None:
    """Serve the API of `files` in `app`, to those whom `authority` knows; None = to everybody."""
    operations = FilesApi(config, files).operations()
    gate = Gate(authority or OpenToAll(), TrustedProxies(config.trusted_proxies))
    Door(config, gate, (*operations, *Reference(operations).operations())).add_routes(app)
