"""A client of direct uploads: the API by hand, and the parts to the store by whatever its URLs say."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

from yarl import URL

from tests.contract.test_object_store import s3_store
from tests.doubles.s3.behaviour import BEHAVIOURS
from tests.doubles.s3.server import S3Double

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

    from tests.wire.client import Client
    from tusgate.s3.store import S3Store

UPLOADS = "/api/v1/uploads"
FINGERPRINTS = "/api/v1/fingerprints"
JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def store_on_double(behaviour: str = "aws") -> AsyncIterator[S3Store]:
    """Give a store on a strict double that behaves like this one: quick, and as strict as the real one."""
    async with S3Double(BEHAVIOURS[behaviour]) as double:
        double.make_bucket("bucket")
        yield s3_store(double.as_server(), "bucket", behaviour)


@dataclass
class DirectClient:
    """Speaks to the gateway and to the store, in the name of one user."""

    gateway: Client
    http: aiohttp.ClientSession
    who: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the parsed body of an answer; `path` is below that of uploads, or begins with `/..`."""
        raw = None if body is None else json.dumps(body).encode()
        path = path.removeprefix("/..") if path.startswith("/..") else f"/uploads{path}"
        answer = await self.gateway.request(method, f"/api/v1{path}", {**JSON, **self.who}, raw)
        return answer.status, json.loads(answer.body) if answer.body else None

    async def begin(self, size: int | None, **more: object) -> tuple[str, list[dict[str, Any]]]:
        """Return the id of a new upload and the first URLs."""
        declared = {} if size is None else {"size": size}
        status, begun = await self.ask("POST", "", {**declared, **more})
        assert status == 201, begun
        return begun["upload"]["id"], begun["parts"]["urls"]

    async def urls(self, upload_id: str, **wish: object) -> list[dict[str, Any]]:
        status, page = await self.ask("POST", f"/{upload_id}/urls", wish)
        assert status == 200, page
        urls: list[dict[str, Any]] = page["urls"]
        return urls

    async def parts(self, upload_id: str) -> list[dict[str, Any]]:
        status, page = await self.ask("GET", f"/{upload_id}/parts")
        assert status == 200, page
        parts: list[dict[str, Any]] = page["parts"]
        return parts

    async def put(self, part: dict[str, Any], data: bytes, *, expect100: bool = False) -> tuple[int, str]:
        """Send one part to the store, and return the status and the ETag.

        With `expect100` only if the store wants it: a refused one may still be on its way when the test ends.
        """
        async with self.http.put(
            URL(part["url"], encoded=True),
            data=BytesIO(data),
            headers=part["headers"],
            skip_auto_headers=["Content-Type"],
            expect100=expect100,
        ) as answer:
            return answer.status, answer.headers.get("ETag", "")

    async def send(self, urls: list[dict[str, Any]], data: bytes) -> dict[int, str]:
        """Send these parts of `data`; return their ETags."""
        etags = {}
        for part in urls:
            status, etag = await self.put(part, data[part["start"] :][: part["size"]])
            assert status == 200
            etags[part["number"]] = etag
        return etags

    async def complete(self, upload_id: str, etags: dict[int, str] | None = None) -> tuple[int, Any]:
        parts = None if etags is None else [{"number": number, "etag": etag} for number, etag in etags.items()]
        return await self.ask("POST", f"/{upload_id}/complete", {} if parts is None else {"parts": parts})


def wrong(refused: dict[str, Any]) -> list[tuple[int, str]]:
    """Return number and fault of each part in a refusal."""
    assert refused["code"] == "parts_refused"
    return [(part["number"], part["wrong"]) for part in refused["parts"]]
