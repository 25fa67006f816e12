"""How clients of botocore for S3 are made, which is the same for all: they do one try, and go nowhere by themselves."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session

from tusgate.s3.wire import DNS_TTL

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from types_aiobotocore_s3.client import S3Client

    from tusgate.s3.config import S3Config


@cache
def session() -> AioSession:
    """Return the session that makes all clients of this process.

    It keeps the model of each service. With a session of its own each client has a copy: 12 MiB and 35,000 objects that
    the garbage collector goes through (aiobotocore 3, S3). Credentials and what is set for one client stay with that.
    """
    return get_session()


async def open_client(stack: AsyncExitStack, config: S3Config, read_timeout: float, connections: int) -> S3Client:
    """Return a client that is closed with `stack`.

    Retries are off, and so are redirects and the proxies of the environment: all requests of one gateway go the same
    way as its parts (`wire`), which know none of these.

    Args:
        stack: closes it.
        config: where the bucket is, and who asks.
        read_timeout: seconds without a byte of answer after which a call is given up.
        connections: most of them at once; others wait.
    """
    made = session().create_client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        aws_session_token=config.session_token,
        config=AioConfig(
            connect_timeout=config.connect_timeout,
            read_timeout=read_timeout,
            max_pool_connections=connections,
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={
                "addressing_style": "path" if config.profile.path_style else "virtual",
                "payload_signing_enabled": True,
            },
            proxies={},
            connector_args={"ttl_dns_cache": DNS_TTL},
        ),
    )
    client = await stack.enter_async_context(made)
    client.meta.events.register("before-call.s3", _never_redirect)
    return client


def _never_redirect(context: dict[str, dict[str, object]], **_: object) -> None:
    """Tell botocore that the call was redirected before.

    Else it would go where a 301 says, and ask for the bucket's region until the stack overflows when that is
    answered with a 301 as well.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True
