"""The real gateway inside the test's process: web, service, SQLite and the directory store, on a free port."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from tests.wire.client import Client
from tusgate.core.events import EventType, Outbox
from tusgate.core.model import FOREVER, Keeping, Scope, Upload, UploadId
from tusgate.database.sqlite import SqliteDatabase
from tusgate.filesystem import DirectoryStore
from tusgate.ports import ObjectStore
from tusgate.service.audit import Audit
from tusgate.service.budget import Budget
from tusgate.service.completion import Completion
from tusgate.service.direct import DirectRules, DirectUploads
from tusgate.service.evidence import Evidence
from tusgate.service.external import ExternalJobs
from tusgate.service.feed import Feed, FeedRules
from tusgate.service.files import Files
from tusgate.service.instant import InstantRules, InstantUploads
from tusgate.service.intake import IntakeTools
from tusgate.service.ledger import Expiry
from tusgate.service.passwords import Passwords
from tusgate.service.sharing import Sharing
from tusgate.service.stores import Stores
from tusgate.service.uploads import UploadRules, Uploads
from tusgate.service.warm import WarmCells
from tusgate.service.writers import Writers
from tusgate.sinks.document import document_for_clients
from tusgate.web.api import ApiServices, add_api
from tusgate.web.api.events import EventsApi
from tusgate.web.config import WebConfig
from tusgate.web.server import WebServer, listen, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from tusgate.ports import Authority, SurveyedDatabase, SurveyedStore
    from tusgate.service.hooks import Hooks
    from tusgate.service.tenants import Tenants

MIB = 1 << 20
PART_SIZE = 5 * MIB
LIFETIME = 3600.0
EVENTS_SECRET = "the secret that the store knows"
URL_TTL = 900
START = 1_800_000_000.0


@dataclass
class Clock:
    """The database's time; tests move it."""

    now: float = START

    def __call__(self) -> float:
        return self.now


@dataclass
class Rig:
    """A running gateway and what lies behind it."""

    client: Client
    database: SurveyedDatabase
    store: SurveyedStore
    writers: Writers
    budget: Budget
    server: WebServer
    clock: Clock
    files: Files
    feed: Feed
    direct: DirectUploads
    audit: Audit
    uploads: Uploads

    async def row(self, path: str, scope: Scope = Scope()) -> Upload:  # noqa: B008 # a frozen value
        """Return the committed upload behind an upload path."""
        return await self.database.get(scope, UploadId(path.rsplit("/", 1)[1]))

    async def stored(self, path: str, scope: Scope = Scope()) -> bytes:  # noqa: B008 # a frozen value
        """Return the finished object of an upload."""
        upload = await self.row(path, scope)
        return b"".join([chunk async for chunk in self.store.read(upload.object_key)])

    async def objects(self) -> list[str]:
        """Return the keys of all finished objects."""
        return [found.key async for found in self.store.list_objects()]

    async def count(self) -> int:
        """Return how many uploads exist, in any state but terminated."""
        by_state = await self.database.count_by_state()
        return sum(count for state, count in by_state.items() if state != "terminated")

    async def until_nobody_is_connected(self) -> None:
        """Wait until what a refused client still sends is read: the server's end would wait longer for that."""

        async def is_empty() -> bool:
            return self.server.connections == 0

        await until(is_empty)

    async def until_taken_in(self, size: int) -> None:
        """Wait until requests hold `size` bytes that have arrived."""

        async def held() -> bool:
            return self.budget.used >= size

        await until(held)

    async def until_row_taken_in(self, path: str, size: int, scope: Scope = Scope()) -> None:  # noqa: B008
        """Wait until the upload has `size` bytes: those that are committed, and those that its request holds."""

        async def there() -> bool:
            return (await self.row(path, scope)).offset + self.budget.used >= size

        await until(there)

    async def expire(self) -> None:
        """Let more than a lifetime pass."""
        self.clock.now += LIFETIME + 1
        await self.database.expire(100)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait, at most 10 s, until something that happens in the server has happened."""
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 # seen from outside, there is no event to wait for
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(
    home: Path,
    config: WebConfig | None = None,
    max_size: int | None = None,
    identity: Callable[[SurveyedDatabase], Authority] | None = None,
    *,
    tenants: Tenants | None = None,
    others: Mapping[str, ObjectStore] | None = None,
    store: SurveyedStore | None = None,
    most_downloads: int = 20,
    finish_wait: float = 25.0,
    listening: FeedRules | None = None,
    resumes_by_fingerprint: bool = False,
    hooks: Hooks | None = None,
    keeps_log: bool = True,
    keeping: Keeping = FOREVER,
    external: Sequence[str] = (),
    instant: InstantRules | None = None,
) -> AsyncIterator[Rig]:
    """Serve until the block ends.

    Args:
        home: directory of everything.
        config: of the web room.
        max_size: largest upload.
        identity: makes the authority from the database; without it the gateway is open.
        tenants: with their limits; without them nobody has any.
        others: stores beside the first one, by the names of their routes; closed in the end.
        store: instead of a directory; closed in the end.
        most_downloads: at once.
        keeps_log: of who reads what.
        keeping: of finished files.
        external: names of processors that others run.
        instant: what holds for files that need not be sent; without it there are none.
        finish_wait: seconds that requests wait for an upload to be finished.
        listening: how events may be followed; without it there are none.
        resumes_by_fingerprint: see `UploadRules`.
        hooks: who is asked.
    """
    clock = Clock()
    feeds: list[Feed] = []
    streamed = frozenset(EventType) if listening else frozenset()

    def wake() -> None:
        for each in feeds:
            each.wake()

    outbox = Outbox(written=wake, progress_every=0.0, streamed=streamed)
    database = SqliteDatabase(home / "tusgate.db", clock, outbox)
    await database.migrate()
    feed = Feed(database, database.events, listening or FeedRules(), time.monotonic)
    feeds.append(feed)
    store = store or DirectoryStore(home / "objects")
    budget = Budget(64 * MIB)
    warm = WarmCells(budget, 0.0)
    writers = Writers()
    stores = Stores[ObjectStore](store, others)
    completion = Completion(database, stores, "test", tenants, hooks, keeping)
    tools = IntakeTools(
        database=database,
        store=store,
        budget=budget,
        warm=warm,
        parts_in_flight=4,
        piece_inline_max=64 * 1024,
        max_size=max_size,
        expiry=Expiry(lifetime=LIFETIME, max_age=None, keeping=keeping),
    )
    rules = UploadRules(
        part_size=PART_SIZE,
        key_template="{id}",
        finish_wait=finish_wait,
        holder="test",
        resumes_by_fingerprint=resumes_by_fingerprint,
    )
    config = config or WebConfig(is_open=identity is None)
    authority = None if identity is None else identity(database)
    reaffirm = None if authority is None else authority.reaffirm
    uploads = Uploads(
        tools,
        writers,
        completion,
        rules,
        lambda: datetime.fromtimestamp(clock.now, UTC),
        reaffirm,
        stores,
        tenants,
        hooks,
    )
    app = make_app(config, uploads, authority)
    files = Files(database, stores, uploads, most_downloads)
    expiry = Expiry(lifetime=LIFETIME, max_age=None)
    direct_rules = DirectRules(
        offered=True, url_ttl=URL_TTL, part_size=PART_SIZE, finish_wait=finish_wait, expiry=expiry
    )
    direct = DirectUploads(database, stores, uploads, completion, direct_rules)
    audit = Audit(database, is_kept=keeps_log, tenants=tenants)
    services = ApiServices(
        files=files,
        uploads=uploads,
        direct=direct,
        audit=audit,
        instant=InstantUploads(database, stores, uploads, instant or InstantRules(), clock),
        sharing=Sharing(database, files, Passwords()) if config.share_keys else None,
        evidence=(Evidence(database, direct), EVENTS_SECRET),
        events=EventsApi(feed, partial(document_for_clients, source="/files")) if listening else None,
        jobs=ExternalJobs(database.jobs, stores, external, lambda: writers.draining) if external else None,
    )
    add_api(app, config, services, authority)
    server = WebServer(app, listen("127.0.0.1", 0))
    await server.start()
    try:
        yield Rig(
            Client(server.port), database, store, writers, budget, server, clock, files, feed, direct, audit, uploads
        )
    finally:
        await feed.close()
        await server.stop_accepting()
        await writers.drain()
        await server.close()
        await audit.close()
        await completion.stop()
        if authority is not None:
            await authority.close()
        await stores.close()
        await database.close()
