"""A bucket as web pages meet it: what CORS lets them do, and the rule that lets them send parts."""

from __future__ import annotations

from contextlib import AsyncExitStack
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError
from yarl import URL

from tusgate.core.checkup import ANY_ORIGIN, Seen
from tusgate.core.errors import StoreRefused, StoreUnavailable
from tusgate.s3.clients import open_client

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_s3.type_defs import CORSRuleOutputTypeDef, CORSRuleTypeDef

    from tusgate.ports import SignedPart
    from tusgate.s3.config import S3Config

RULE: Final = "tusgate"
"""ID of our CORS rule, by which it is found again."""
ASKED_HEADERS: Final = "x-amz-checksum-sha256"
"""What a page may have to send beside the bytes; CORS has to allow it by name or by `*`."""
_NO_RULES: Final = "NoSuchCORSConfiguration"
_SERVER_ERROR: Final = 500


class BucketDoor:
    """The port `StoreDoor` on a bucket."""

    def __init__(self, config: S3Config) -> None:
        self.cors_setting = config.profile.cors_setting
        self._config = config
        self._stack = AsyncExitStack()
        self._http: aiohttp.ClientSession | None = None
        self._client: S3Client | None = None

    async def send(self, origin: str, part: SignedPart, data: bytes) -> Seen:
        """See `StoreDoor.send`."""
        url = URL(part.url, encoded=True)
        preflight = {
            "Origin": origin,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": ASKED_HEADERS,
        }
        http = await self._session()
        try:
            async with http.options(url, headers=preflight) as asked:
                may_send = asked.status < 400 and _allows(asked, origin)
            sent = {**part.headers, "Origin": origin}
            async with http.put(url, data=data, headers=sent, skip_auto_headers=["Content-Type"]) as answer:
                exposed = {name.strip().lower() for name in _field(answer, "Expose-Headers").split(",")}
                shows_etag = bool(exposed & {"etag", "*"}) and _names(answer, origin)
                return Seen(may_send, answer.status, shows_etag, _clock(answer))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            told = f"{url.origin()} cannot be reached from here: {str(error) or type(error).__name__}"
            raise StoreUnavailable(told) from None

    async def open_to(self, origins: Sequence[str]) -> None:
        """See `StoreDoor.open_to`."""
        client, bucket = await self._control(), self._config.bucket
        ours: CORSRuleTypeDef = {
            "ID": RULE,
            "AllowedOrigins": list(origins),
            "AllowedMethods": ["PUT"],
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": 86_400,
        }
        try:
            others = [rule for rule in await self._rules() if rule.get("ID") != RULE]
            rules: list[CORSRuleTypeDef] = [*others, ours]  # type: ignore[list-item]  # what was read may be written
            await client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})
        except ClientError as error:
            raise _refusal(error) from None
        except BotoCoreError as error:
            raise StoreUnavailable(f"the CORS rules of bucket {bucket}: {type(error).__name__}") from None

    async def close(self) -> None:
        """See `StoreDoor.close`."""
        self._http = self._client = None
        await self._stack.aclose()

    async def _rules(self) -> list[CORSRuleOutputTypeDef]:
        client = await self._control()
        try:
            return (await client.get_bucket_cors(Bucket=self._config.bucket)).get("CORSRules", [])
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == _NO_RULES:
                return []
            raise

    async def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=self._config.read_timeout, sock_connect=self._config.connect_timeout)
            made = aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())
            self._http = await self._stack.enter_async_context(made)
        return self._http

    async def _control(self) -> S3Client:
        if self._client is None:
            config = self._config
            self._client = await open_client(self._stack, config, config.read_timeout, config.connections)
        return self._client


def _field(answer: aiohttp.ClientResponse, name: str) -> str:
    return answer.headers.get(f"Access-Control-{name}", "")


def _names(answer: aiohttp.ClientResponse, origin: str) -> bool:
    return _field(answer, "Allow-Origin") in {origin, ANY_ORIGIN}


def _allows(answer: aiohttp.ClientResponse, origin: str) -> bool:
    methods = {method.strip().upper() for method in _field(answer, "Allow-Methods").split(",")}
    headers = {name.strip().lower() for name in _field(answer, "Allow-Headers").split(",")}
    return _names(answer, origin) and bool(methods & {"PUT", "*"}) and bool(headers & {ASKED_HEADERS, "*"})


def _clock(answer: aiohttp.ClientResponse) -> datetime | None:
    try:
        return parsedate_to_datetime(answer.headers["Date"])
    except (KeyError, ValueError):
        return None


def _refusal(error: ClientError) -> StoreRefused | StoreUnavailable:
    code = error.response.get("Error", {}).get("Code", "")
    told = f"the store refused to change the CORS rules of the bucket: {code}"
    if code == "AccessDenied":
        return StoreRefused(f"{told}; the key needs s3:GetBucketCORS and s3:PutBucketCORS")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    is_known = code in {"NotImplemented", "MethodNotAllowed"} or status < _SERVER_ERROR
    return StoreRefused(told) if is_known else StoreUnavailable(told)
