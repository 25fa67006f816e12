"""Names that lead nowhere or elsewhere, and certificates that are not valid (DF-14).

Held by every test here: I1 and I3 (`honest.Upload`), I8 (no success meanwhile), I20 (service goes on within ten
seconds of the end of the fault, and nobody restarts anything).
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.fault.certificates import EXPIRED, VALID, Certificates
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.honest import begin
from tests.fault.names import Names
from tests.fault.rig import KIB, MIB, PART, Rig
from tests.fault.tcp import TcpFaultProxy
from tests.wire.client import CT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.fault.honest import Upload

    StartRig = Callable[..., Awaitable[Rig]]

pytestmark = pytest.mark.slow

DATA = random.Random(14).randbytes(3 * PART + 100 * KIB + 7)
READY_SECONDS = 10.0
"""Within which the gateway serves again after a fault has ended: the promise itself, and so a deadline."""
ELSEWHERE = "127.0.0.2"


@dataclass
class Place:
    """What the gateway knows by name only.

    Attributes:
        name: in the gateway's settings.
        first, second: listen at the same port of two addresses, and lead to the same server.
        names: where the name leads, and whether it leads anywhere.
        head: status of a HEAD while the place cannot be reached.
    """

    name: str
    first: TcpFaultProxy
    second: TcpFaultProxy
    names: Names
    head: int

    def is_at(self, link: TcpFaultProxy | None) -> None:
        """Lead the name there from now on; None: it does not resolve."""
        self.names.lead({} if link is None else {self.name: link.host})


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What has to outlive the gateway: asked for before the rig."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["store", "database"])
async def found(
    request: pytest.FixtureRequest, stack: AsyncExitStack, start_rig: StartRig, tmp_path: Path
) -> tuple[Rig, Place]:
    """A gateway that knows its store, or its database, by a name that leads to the first address."""
    rig = await start_rig(SMALLEST_PARTS_AND_COLD, database="postgres")
    setting = "TUSGATE_S3_ENDPOINT" if request.param == "store" else "TUSGATE_DATABASE_URL"
    address = urlsplit(rig.gateway.environment[setting])
    assert address.hostname
    assert address.port
    first = await stack.enter_async_context(TcpFaultProxy(address.hostname, address.port))
    second = await stack.enter_async_context(TcpFaultProxy(address.hostname, address.port, (ELSEWHERE, first.port)))
    name = f"{request.param}.test"
    place = Place(name, first, second, Names(tmp_path), 200 if request.param == "store" else 423)
    place.is_at(first)
    place.names.give_to(rig.gateway)
    netloc = address.netloc.replace(f"{address.hostname}:{address.port}", f"{name}:{first.port}")
    await restarted(rig, **{setting: urlunsplit(address._replace(netloc=netloc))})
    assert first.accepted
    return rig, place


async def restarted(rig: Rig, **settings: str) -> None:
    """Start the gateway anew, with settings that the test could not know before."""
    await asyncio.to_thread(rig.gateway.stop)
    rig.gateway.environment.update(settings)
    await asyncio.to_thread(rig.gateway.start)


async def until_ready(rig: Rig) -> None:
    """Wait until the gateway says that it serves. Fails when that takes longer than promised (I20)."""
    try:
        await rig.until(rig.gateway.answers_ready, READY_SECONDS)
    except TimeoutError:
        pytest.fail(f"not ready: {await rig.client.request('GET', '/readyz')}")


async def is_refused(rig: Rig, upload: Upload, head: int) -> None:
    """Clients are asked to come again, and nothing is acknowledged."""
    patch, post, looked = await asyncio.gather(
        rig.client.patch(upload.path, upload.acknowledged, DATA[upload.acknowledged :]),
        rig.client.post({"Upload-Length": "5", **CT}, b"hello"),
        rig.client.head(upload.path),
    )
    for answer in (patch, post):
        assert answer.status == 503, answer
        assert int(answer.headers["Retry-After"]) >= 1
    assert looked.status == head, looked
    await rig.until(lambda: not rig.gateway.answers_ready())


async def test_a_name_that_does_not_resolve_is_waited_for(found: tuple[Rig, Place]) -> None:
    """And leads elsewhere when it resolves again."""
    rig, place = found
    upload = await begin(rig, DATA)
    await upload.send(PART + MIB)

    place.is_at(None)
    await place.first.down()
    await is_refused(rig, upload, place.head)
    place.is_at(place.second)

    await until_ready(rig)
    await upload.run()
    assert place.second.accepted


async def test_an_address_that_changes_is_followed(found: tuple[Rig, Place]) -> None:
    """The old one refuses connections until then, and what was looked up is remembered no longer than promised."""
    rig, place = found
    upload = await begin(rig, DATA)
    await upload.send(PART + MIB)

    await place.first.down()
    await is_refused(rig, upload, place.head)
    place.is_at(place.second)

    await until_ready(rig)
    await upload.run()
    assert place.second.accepted


async def test_an_address_that_vanishes_is_left(found: tuple[Rig, Place]) -> None:
    """Nobody says that the old one is gone: what is sent there gets no answer. One request finds out by waiting."""
    rig, place = found
    upload = await begin(rig, DATA)
    await upload.send(PART)

    place.first.freeze()
    sending = asyncio.create_task(upload.run(deadline=150))
    await rig.until(lambda: not rig.gateway.answers_ready())
    place.is_at(place.second)

    await until_ready(rig)
    other = await begin(rig, DATA[: 2 * MIB])
    await other.run()
    await sending
    assert place.second.accepted


async def test_an_address_that_changes_in_the_middle_of_uploads_fails_none(found: tuple[Rig, Place]) -> None:
    rig, place = found
    uploads = [await begin(rig, DATA) for _ in range(5)]
    running = asyncio.gather(*(upload.run(700 * KIB) for upload in uploads))
    await rig.until_offset(uploads[0].path, PART)
    place.is_at(place.second)
    await place.first.down()
    await running
    assert place.second.accepted


@pytest.fixture
async def secure(stack: AsyncExitStack, start_rig: StartRig, tmp_path: Path) -> tuple[Rig, Certificates, TcpFaultProxy]:
    """A gateway that speaks TLS with its store."""
    rig = await start_rig(SMALLEST_PARTS_AND_COLD)
    certificates = Certificates(tmp_path / "certificates", "store.test")
    certificates.show(VALID)
    address = urlsplit(rig.proxy.url)
    assert address.hostname
    assert address.port
    link = await stack.enter_async_context(TcpFaultProxy(address.hostname, address.port, tls=certificates.context))
    names = Names(tmp_path)
    names.lead({"store.test": link.host})
    names.give_to(rig.gateway)
    trusted = str(certificates.trusted)
    await restarted(
        rig, TUSGATE_S3_ENDPOINT=f"https://store.test:{link.port}", SSL_CERT_FILE=trusted, AWS_CA_BUNDLE=trusted
    )
    return rig, certificates, link


async def test_a_certificate_that_has_expired_is_not_accepted_and_its_successor_is(
    secure: tuple[Rig, Certificates, TcpFaultProxy],
) -> None:
    rig, certificates, link = secure
    upload = await begin(rig, DATA)
    await upload.send(PART + MIB)

    certificates.show(EXPIRED)
    link.end_all()
    calls = rig.proxy.history.count()
    await is_refused(rig, upload, head=200)
    assert rig.proxy.history.count() == calls
    certificates.show(VALID)

    await until_ready(rig)
    await upload.run()
