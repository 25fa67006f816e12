"""Events of S3, as MinIO posts them to webhooks and SNS to HTTP endpoints; whoever sends them shows a secret."""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING, Final

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from tusgate.core.errors import InvalidCredentials, InvalidRequest, Unauthenticated
from tusgate.core.store_events import LONGEST_KEY, MOST_RECORDS, keys_in
from tusgate.web.api.door import Operation

if TYPE_CHECKING:
    from tusgate.service.evidence import Evidence
    from tusgate.web.api.door import ApiCall

_LARGEST_EVENT: Final = 1024 * 1024
_LENIENT: Final = ConfigDict(extra="ignore")


class _EventObject(BaseModel):
    model_config = _LENIENT
    key: str = Field(max_length=LONGEST_KEY)


class _EventSource(BaseModel):
    model_config = _LENIENT
    object: _EventObject


class _EventRecord(BaseModel):
    model_config = _LENIENT
    s3: _EventSource


class S3Event(BaseModel):
    """An event notification of S3: its own form, or one of SNS that has it in `Message`."""

    model_config = _LENIENT

    Records: list[_EventRecord] = Field(default=[], max_length=MOST_RECORDS, description="As S3 and MinIO send them.")
    Type: str | None = Field(default=None, description="Of a message of SNS.")
    Message: str | None = Field(default=None, description="The notification as text, in a message of SNS.")

    def keys(self) -> list[str]:
        """Return the object keys that it is about. Raises InvalidRequest when the message of SNS is none of S3."""
        keys = keys_in(self.model_dump())
        if keys is None and self.Type == "Notification" and self.Message is not None:
            raise InvalidRequest("Message", "an event notification of S3")
        return keys or []


class S3EventsApi:
    """The operation that takes events."""

    def __init__(self, evidence: Evidence, secret: str) -> None:
        self._evidence = evidence
        self._secret = secret.encode()

    def operations(self) -> tuple[Operation, ...]:
        """Return it."""
        return (
            Operation(
                method="POST",
                path="/s3-events",
                name="takeS3Events",
                summary="Take event notifications of the object store",
                description=(
                    "For webhooks of MinIO and subscriptions of SNS, not for clients. The secret comes as a bearer"
                    " token, or as the password of Basic credentials. An event is a reason to ask the store, and proves"
                    " nothing."
                ),
                answer=self.take,
                admit=self._admit,
                body=S3Event,
                body_types=frozenset({"application/json", "text/plain", ""}),
                largest_body=_LARGEST_EVENT,
                status=204,
                problems=(400, 401, 413, 415),
            ),
        )

    async def take(self, call: ApiCall) -> web.Response:
        """Look after the uploads that an event is about."""
        assert isinstance(call.body, S3Event)
        await self._evidence.objects_changed(call.body.keys())
        return web.Response(status=204)

    def _admit(self, request: web.Request) -> None:
        """Raise Unauthenticated unless the sender shows the secret."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if not given:
            raise Unauthenticated
        if not hmac.compare_digest(_secret_in(scheme.lower(), given.strip()), self._secret):
            raise InvalidCredentials


def _secret_in(scheme: str, given: str) -> bytes:
    if scheme == "bearer":
        return given.encode("utf-8", "surrogateescape")
    if scheme != "basic":
        return b""
    try:
        return base64.b64decode(given, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return b""
