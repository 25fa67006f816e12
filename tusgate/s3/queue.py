"""The queue of Amazon SQS that a bucket sends its events to, itself or by SNS."""

from __future__ import annotations

import re
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError

from tusgate.core.errors import StoreUnavailable
from tusgate.ports import Report
from tusgate.s3.clients import session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from types_aiobotocore_sqs import SQSClient

LONGEST_WAIT: Final = 20
"""Seconds that SQS waits for a message, at most."""
MOST_MESSAGES: Final = 10
"""Messages in one answer of SQS, at most."""
_AWS_HOST: Final = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """Where the queue is, and who asks.

    Attributes:
        url: of the queue; its host is asked.
        region: of the bucket; the region that stands in an address of AWS counts more.
        access_key, secret_key, session_token: of the store: they need ReceiveMessage and DeleteMessage.
        timeout: seconds for an answer, beside the wait for messages.
    """

    url: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    timeout: float = 10.0

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        address = urlsplit(self.url)
        return f"{address.scheme}://{address.netloc}"

    @property
    def signing_region(self) -> str:
        """Which region requests are signed for."""
        of_aws = _AWS_HOST.fullmatch(urlsplit(self.url).hostname or "")
        return of_aws.group(1) if of_aws else self.region


class SqsReports:
    """The port `ReportQueue` on SQS."""

    def __init__(self, config: QueueConfig) -> None:
        self._config = config
        self._stack = AsyncExitStack()
        self._client: SQSClient | None = None

    async def receive(self) -> list[Report]:
        """See `ReportQueue.receive`."""
        client = await self._opened()

        async def ask() -> list[Report]:
            answer = await client.receive_message(
                QueueUrl=self._config.url, MaxNumberOfMessages=MOST_MESSAGES, WaitTimeSeconds=LONGEST_WAIT
            )
            return [Report(each.get("Body", ""), each.get("ReceiptHandle", "")) for each in answer.get("Messages", [])]

        return await _translated(ask)

    async def drop(self, report: Report) -> None:
        """See `ReportQueue.drop`."""
        client = await self._opened()

        async def ask() -> list[Report]:
            await client.delete_message(QueueUrl=self._config.url, ReceiptHandle=report.receipt)
            return []

        await _translated(ask)

    async def close(self) -> None:
        """See `ReportQueue.close`."""
        self._client = None
        await self._stack.aclose()

    async def _opened(self) -> SQSClient:
        if self._client is None:
            config = self._config
            made = session().create_client(
                "sqs",
                region_name=config.signing_region,
                endpoint_url=config.endpoint,
                aws_access_key_id=config.access_key,
                aws_secret_access_key=config.secret_key,
                aws_session_token=config.session_token,
                config=AioConfig(
                    connect_timeout=config.timeout,
                    read_timeout=LONGEST_WAIT + config.timeout,
                    retries={"total_max_attempts": 1},
                    proxies={},
                ),
            )
            self._client = await self._stack.enter_async_context(made)
        return self._client


async def _translated(ask: Callable[[], Awaitable[list[Report]]]) -> list[Report]:
    try:
        return await ask()
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "an error")
        raise StoreUnavailable(f"the queue of S3 events answered {code}") from None
    except BotoCoreError as error:
        raise StoreUnavailable(f"the queue of S3 events cannot be reached: {type(error).__name__}") from None
