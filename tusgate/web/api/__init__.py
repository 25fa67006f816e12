"""The JSON API below `/api/v1`: files, their downloads and share links, direct and instant uploads, and what happens.

Delete this package and one line of `app.py` and the gateway takes uploads and hands out nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tusgate.web.api.accesses import AccessesApi
from tusgate.web.api.companion import Companion
from tusgate.web.api.direct import DirectApi
from tusgate.web.api.door import Door
from tusgate.web.api.files import FilesApi
from tusgate.web.api.instant import InstantApi
from tusgate.web.api.jobs import JobsApi
from tusgate.web.api.openapi import Reference
from tusgate.web.api.s3_events import S3EventsApi
from tusgate.web.api.shared import SharedFiles
from tusgate.web.api.shares import SharesApi
from tusgate.web.api.signed_s3 import SignedS3
from tusgate.web.gate import Gate, OpenToAll
from tusgate.web.location import TrustedProxies

if TYPE_CHECKING:
    from aiohttp import web

    from tusgate.ports import Authority
    from tusgate.service.audit import Audit
    from tusgate.service.direct import DirectUploads
    from tusgate.service.evidence import Evidence
    from tusgate.service.external import ExternalJobs
    from tusgate.service.files import Files
    from tusgate.service.instant import InstantUploads
    from tusgate.service.sharing import Sharing
    from tusgate.service.uploads import Uploads
    from tusgate.web.api.door import Operation
    from tusgate.web.api.events import EventsApi
    from tusgate.web.config import WebConfig


@dataclass(frozen=True, kw_only=True)
class ApiServices:
    """What the API is about.

    Attributes:
        files: what can be done with files.
        uploads: those whose bytes come through the gateway.
        direct: uploads whose parts clients send to the store themselves.
        audit: writes down who reads files.
        instant: files that need not be sent.
        sharing: share links; None = there are none.
        evidence: takes events of the store, from those who know the secret; None = from nobody.
        events: what can be listened to; None = nothing.
        jobs: what external workers can do; None = there are none.
    """

    files: Files
    uploads: Uploads
    direct: DirectUploads
    audit: Audit
    instant: InstantUploads
    sharing: Sharing | None = None
    evidence: tuple[Evidence, str] | None = None
    events: EventsApi | None = None
    jobs: ExternalJobs | None = None


def add_api(app: web.Application, config: WebConfig, services: ApiServices, authority: Authority | None = None) -> None:
    """Serve the API in `app`, to those whom `authority` knows; None = to everybody."""
    public = None
    if services.sharing is not None:
        public = SharedFiles(config, services.sharing, services.files, services.audit)
        public.add_routes(app)
    operations = _operations(config, services, public)
    gate = Gate(authority or OpenToAll(), TrustedProxies(config.trusted_proxies))
    Door(config, gate, (*operations, *Reference(operations).operations())).add_routes(app)


def _operations(config: WebConfig, services: ApiServices, public: SharedFiles | None) -> tuple[Operation, ...]:
    files = FilesApi(config, services.files, services.audit)
    return (
        *files.operations(),
        *SharesApi(services.sharing, public).operations(),
        *AccessesApi(services.audit).operations(),
        *DirectApi(config, services.direct, files.show).operations(),
        *InstantApi(config, services.instant, files.show).operations(),
        *Companion(config, services.direct, services.uploads).operations(),
        *SignedS3(config, services.direct).operations(),
        *(S3EventsApi(*services.evidence).operations() if services.evidence else ()),
        *(services.events.operations() if services.events else ()),
        *(JobsApi(config, services.jobs, services.files, services.audit).operations() if services.jobs else ()),
    )
