"""The JSON API of files, and their downloads, below `/api/v1`.

Delete this package and one line of `app.py` and the gateway takes uploads and hands out nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tusgate.web.api.door import Door
from tusgate.web.api.files import FilesApi
from tusgate.web.api.openapi import Reference

if TYPE_CHECKING:
    from aiohttp import web

    from tusgate.service.files import Files
    from tusgate.web.config import WebConfig
    from tusgate.web.dispatch import Authenticate


def add_api(app: web.Application, config: WebConfig, files: Files, authenticate: Authenticate) -> None:
    """Serve the API of `files` in `app`, to whom `authenticate` lets in."""
    operations = FilesApi(config, files).operations()
    Door(config, authenticate, (*operations, *Reference(operations).operations())).add_routes(app)
