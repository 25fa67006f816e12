"""Files that arrive as several uploads: partials, which honest clients send side by side, and their final."""

from __future__ import annotations

import asyncio
import hashlib
from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.audit.journal import Journal, Told
from tests.fault.honest import DEADLINE, LOST, PAUSE, Upload, heard
from tests.fault.rig import id_of

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from tests.fault.rig import Rig
    from tests.wire.client import Answer, Client


class Partial(Upload):
    """A piece of a file."""

    async def check_object(self) -> None:
        """It may never have an object of its own: its final shows whether its bytes are right, and the audit."""


@dataclass
class Final:
    """The upload that is made of partials.

    Attributes:
        partials: each as often, and in the order, that the final lists it.
        clients: requests go to them in turn; default: the first gateway.
        paths: what the requests for it were answered, in their order.
        turned_away: statuses that made the client ask again.
        journal: of the final, as soon as somebody looks for its object.
    """

    rig: Rig
    partials: Sequence[Partial]
    clients: Sequence[Client] = ()
    paths: list[str] = field(default_factory=list)
    turned_away: list[int] = field(default_factory=list)
    journal: Journal | None = None
    _asked: int = 0

    @property
    def data(self) -> bytes:
        """What the object has to be."""
        return b"".join(partial.data for partial in self.partials)

    async def run(self, chunk: int | None = None, deadline: float = DEADLINE) -> str:
        """Send all partials, ask for the final, and return its path when its object is there and right.

        Raises TimeoutError when a partial gets no further for `deadline` seconds, or the final is not there after them.
        """
        async with asyncio.TaskGroup() as sending:
            for partial in {partial.path: partial for partial in self.partials}.values():
                sending.create_task(partial.run(chunk, deadline))
        async with asyncio.timeout(deadline):
            return await self.ask_until_there()

    async def ask_until_there(self) -> str:
        """Ask for the final of partials that have been sent, and return its path when its object is there and right."""
        path = await self.ask()
        await self.until_there(path)
        return path

    async def ask(self) -> str:
        """Ask for the final, as often as it takes, and return its path."""
        while True:
            answer = await heard(self.post)
            if answer.status == 201:
                self.paths.append(answer.upload_path)
                return answer.upload_path
            assert answer.status in (409, 423, 503), answer  # tus-js-client gives up on other ones below 500
            self.turned_away.append(answer.status)
            await asyncio.sleep(PAUSE)

    async def post(self) -> Answer:
        """Ask for the final once."""
        listed = "final;" + " ".join(partial.path for partial in self.partials)
        return await self._client().post({"Upload-Concat": listed})

    async def until_there(self, path: str) -> None:
        """Look at the final until it shows its offset, which it must do for a verified object only. I4, I5."""
        self.journal = journal = Journal(id_of(path))
        self.rig.journals.append(journal)
        while not await self._is_there(path, journal):  # noqa: ASYNC110 # a client has no event to wait for
            await asyncio.sleep(PAUSE)
        await self.check_object(path)

    async def check_object(self, path: str) -> None:
        """Compare the object in the store with the file."""
        stored = await self.rig.stored(path)
        assert len(stored) == len(self.data)
        assert hashlib.sha256(stored).digest() == hashlib.sha256(self.data).digest()

    async def _is_there(self, path: str, journal: Journal) -> bool:
        try:
            answer = await self._client().head(path)
        except LOST:
            return False
        assert answer.status in (200, 423), answer
        if "Upload-Offset" not in answer.headers:
            return False
        assert answer.offset == len(self.data), answer
        journal.told.append(Told(answer.offset, answer.status, answer.offset, self.rig.committed(path)))
        return True

    def _client(self) -> Client:
        clients = self.clients or [self.rig.client]
        self._asked += 1
        return clients[self._asked % len(clients)]


def grouped(name: str, datas: Sequence[bytes] = ()) -> str:
    """Return the metadata of partials of the group `name`, which tells the lengths of `datas` if there are any."""
    told = {"concat-group": name} | ({"concat-lengths": ",".join(str(len(data)) for data in datas)} if datas else {})
    return ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in told.items())


async def begin_partial(rig: Rig, data: bytes, metadata: str | None = None, clients: Sequence[Client] = ()) -> Partial:
    """Create a partial; one whose URL was never heard is left to expire, or to be ended by a final."""
    client = clients[0] if clients else rig.client
    fields = {"Upload-Concat": "partial", "Upload-Length": str(len(data))}
    fields |= {} if metadata is None else {"Upload-Metadata": metadata}

    async def post() -> Answer:
        return await client.post(fields)

    while (answer := await heard(post)).status != 201:
        assert answer.status == 503, answer
        await asyncio.sleep(PAUSE)
    partial = Partial(rig, answer.upload_path, data, clients=clients)
    partial.journal.metadata = None if metadata is None else metadata.encode()
    return partial


async def begin_in_place(rig: Rig, name: str, datas: Sequence[bytes], clients: Sequence[Client] = ()) -> Final:
    """Create partials that lie in one multipart upload, in their order, unless an answer is lost."""
    return Final(rig, [await begin_partial(rig, data, grouped(name, datas), clients) for data in datas], clients)


async def begin_in_another_order(rig: Rig, name: str, datas: Sequence[bytes], clients: Sequence[Client] = ()) -> Final:
    """Create partials that lie in one multipart upload in the wrong order: it must become an object to be copied."""
    backwards = [await begin_partial(rig, data, grouped(name), clients) for data in reversed(datas)]
    return Final(rig, backwards[::-1], clients)


async def begin_any(rig: Rig, data: bytes, chance: random.Random, clients: Sequence[Client]) -> Final:
    """Create partials of `data` that are cut anywhere, and lie in one of the three ways."""
    cut = chance.randrange(len(data) + 1)
    halves = [data[:cut], data[cut:]]
    match chance.randrange(3):
        case 0:
            return await begin_in_place(rig, chance.randbytes(16).hex(), halves, clients)
        case 1:
            return await begin_in_another_order(rig, chance.randbytes(16).hex(), halves, clients)
        case _:
            return await begin_apart(rig, halves, clients)


async def begin_apart(rig: Rig, datas: Sequence[bytes], clients: Sequence[Client] = ()) -> Final:
    """Create partials that become objects of their own."""
    return Final(rig, [await begin_partial(rig, data, None, clients) for data in datas], clients)
