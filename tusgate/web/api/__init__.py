"""The JSON API of files, their downloads, and what happens to them, below `/api/v1`.

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
    from tusgate.web.api.events import EventsApi
    from tusgate.web.config import WebConfig


def add_api(
    app: web.Application,
    config: WebConfig,
    files: Files,
    authority: Authority | None = None,
    events: EventsApi | None = None,
) -> None:
    """Serve the API in `app`.

    Args:
        app: what serves.
        config: of the web room.
        files: what can be done with files.
        authority: knows who may; None = everybody.
        events: what can be listened to; None = nothing.
    """
    operations = (*FilesApi(config, files).operations(), *(events.operations() if events else ()))
    gate = Gate(authority or OpenToAll(), TrustedProxies(config.trusted_proxies))
    Door(config, gate, (*operations, *Reference(operations).operations())).add_routes(app)
