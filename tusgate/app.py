"""The composition root: settings become adapters, adapters a service, the service a server. Only it knows all.

Start: database (migrated in embedded mode), store, jobs, then the socket; a dependency that is away does not stop the
start: `/readyz` says so until it is back. End: stop accepting, let every request save its bytes, then close all.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import structlog
import uvloop

from tusgate import assembly
from tusgate.core.checkup import origins_to_ask
from tusgate.core.errors import DeliveryFailed, Fenced, SettingsError, Unavailable, UploadNotFound
from tusgate.core.model import Keeping, State
from tusgate.crash import AFTER_ANSWER, BEFORE_ANSWER, Crash
from tusgate.database.postgres import PostgresDatabase
from tusgate.database.sqlite import SqliteDatabase
from tusgate.s3.door import BucketDoor
from tusgate.s3.queue import QueueConfig, SqsReports
from tusgate.service.audit import Audit
from tusgate.service.checkup import Bucket, Checkup, is_bad
from tusgate.service.cleanup import clean_up as run_clean_up
from tusgate.service.cleanup import foresee_clean_up
from tusgate.service.completion import Completion
from tusgate.service.direct import DirectUploads
from tusgate.service.evidence import Evidence, QueueWatch
from tusgate.service.feed import Feed, FeedRules
from tusgate.service.jobs import JobRules, Jobs
from tusgate.service.reconcile import Reconciler
from tusgate.service.relay import Relay
from tusgate.service.tenants import Tenants
from tusgate.service.uploads import let_fail
from tusgate.service.writers import Writers
from tusgate.settings.processing import known_processors, names_of_processors
from tusgate.settings.tenants import load_tenancy
from tusgate.telemetry import LogEvent
from tusgate.web.api import add_api
from tusgate.web.api.door import ROOT
from tusgate.web.connections import connections_allowed
from tusgate.web.last_words import watch_answers
from tusgate.web.page import add_page
from tusgate.web.server import WebServer, listen, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from datetime import timedelta

    from aiohttp.web import Application

    from tusgate.core.access import ApiToken, NewApiToken
    from tusgate.core.checkup import Finding as CheckupFinding
    from tusgate.core.clockwatch import Verdict
    from tusgate.core.events import Outbox
    from tusgate.core.model import Upload
    from tusgate.core.quota import Usage
    from tusgate.ports import (
        Database,
        Deliveries,
        JobQueue,
        SurveyedDatabase,
        SurveyedStore,
        TokenStore,
    )
    from tusgate.processors import Processor
    from tusgate.s3.config import S3Config
    from tusgate.service.cleanup import Outcome
    from tusgate.service.reconcile import Finding, Looked, Mending
    from tusgate.service.stores import Stores
    from tusgate.service.uploads import Uploads
    from tusgate.settings import Settings
    from tusgate.settings.tenants import Tenancy

    Stop = Callable[[Upload, str], Awaitable[None]]

log = structlog.get_logger(__name__)

T = TypeVar("T")

DRY_RUN_LIMIT = 1000
"""Rows of each kind that a dry run looks at: it locks them for as long."""


SCRAPERS = 16
"""Connections for metrics at once."""


def run(settings: Settings, *, reuse_port: bool = False) -> None:
    """Serve until SIGTERM or SIGINT, in this process. A second signal ends it without waiting for requests.

    Args:
        settings: valid; logging is configured already.
        reuse_port: other processes listen on the same port.

    Raises:
        SettingsError: the address, the database or the interpreter cannot be used as set.
    """
    uvloop.run(_serve(settings, reuse_port))


def work(settings: Settings) -> None:
    """Do jobs of finished files until SIGTERM or SIGINT.

    Raises:
        SettingsError: there are no processors, or the database is not migrated.
    """
    uvloop.run(_work(settings))


def migrate(settings: Settings) -> list[str]:
    """Apply the migrations that are missing; return their names. Raises DatabaseUnavailable."""

    async def apply() -> list[str]:
        async with _opened_database(settings, makes_directory=True) as database:
            return await database.migrate()

    return asyncio.run(apply())


def clean_up(settings: Settings, tell: Callable[[Outcome], None], *, dry_run: bool, release: bool) -> Verdict:
    """Run the clean-up jobs once and report all that they do; return whether uploads may be expired at present.

    Args:
        settings: of the gateway.
        tell: gets each outcome as it happens.
        dry_run: report what would be done, at most `DRY_RUN_LIMIT` of each kind.
        release: first let uploads expire again, whatever has stopped that.

    Raises:
        SettingsError: the database is not migrated.
        Unavailable: what was done until then was told.
    """

    async def work() -> Verdict:
        async with _opened(settings, load_tenancy(settings)) as (database, stores):
            rules = JobRules()
            if release and not dry_run:
                await database.release_expiry()
            expirer = rules.expirer(database, assembly.own_clocks())
            if dry_run:
                outcomes = foresee_clean_up(database, expirer, DRY_RUN_LIMIT, rules.intent_grace)
            else:
                outcomes = run_clean_up(expirer, rules.collector(database, stores))
            async for outcome in outcomes:
                tell(outcome)
            return expirer.verdict

    return asyncio.run(work())


def reconcile(settings: Settings, tell: Callable[[Finding], None], mending: Mending, grace: timedelta) -> Looked:
    """Compare the database with the store, report what does not agree, and mend what may be mended.

    Raises:
        SettingsError: the database is not migrated.
        Unavailable: what was found until then was told.
    """

    async def work() -> Looked:
        tenancy = load_tenancy(settings)
        processors = _processors(settings, tenancy)
        async with _opened(settings, tenancy) as (database, stores):
            reconciler = Reconciler(
                database=database,
                stores=stores,
                mending=mending,
                now=datetime.now(UTC),
                grace=grace,
                keeping=assembly.keeping(settings, tenancy, assembly.processing(settings, tenancy, processors)),
            )
            async for finding in reconciler.run():
                tell(finding)
            return reconciler.looked

    return asyncio.run(work())


def check_up(settings: Settings, tell: Callable[[CheckupFinding], None], *, fix_cors: bool) -> bool:
    """Look at all that a gateway with these settings would need, and report each look; return whether all is well.

    Args:
        settings: of the gateway.
        tell: gets each finding as it is made.
        fix_cors: put a CORS rule where pages cannot send parts; nothing else is changed.

    Raises:
        SettingsError: of the tenants' file.
    """

    async def work() -> bool:
        async with AsyncExitStack() as stack:
            is_new = settings.sqlite_path is not None and not settings.sqlite_path.exists()
            database = None if is_new else await stack.enter_async_context(_opened_database(settings))
            buckets = await _buckets(settings, load_tenancy(settings), stack)
            own = urlsplit(settings.endpoint_url)
            page = f"{own.scheme}://{own.netloc}" if assembly.has_page(settings) else None
            origins = origins_to_ask(settings.page_origins, page)
            findings = []
            async for finding in Checkup(database, buckets, origins, fixes_cors=fix_cors).findings():
                findings.append(finding)
                tell(finding)
            return not is_bad(findings)

    return asyncio.run(work())


async def _buckets(settings: Settings, tenancy: Tenancy, stack: AsyncExitStack) -> list[Bucket]:
    """Return all stores, and their doors where parts are sent past the gateway. `stack` closes them."""
    stores = assembly.stores(settings, tenancy)
    stack.push_async_callback(stores.close)
    configs: dict[str | None, S3Config] = {}
    if settings.store_dir is None:
        configs[None] = assembly.own_config(settings)
    keys = dict(tenancy.keys)
    configs |= {name: assembly.route_config(settings, route, keys[name]) for name, route in tenancy.routes}
    buckets = []
    for route, store in stores:
        config = configs.get(route)
        door = BucketDoor(config) if config is not None and settings.direct == "on" and store.signs_parts else None
        if door is not None:
            stack.push_async_callback(door.close)
        place = f"directory {settings.store_dir}" if config is None else f"bucket {config.bucket}"
        buckets.append(Bucket(place if route is None else f"{place} of route {route}", store, door))
    return buckets


def usages(settings: Settings, *, recount: bool) -> tuple[dict[str, Usage], dict[str, tuple[Usage, Usage]]]:
    """Return what each tenant has, and with `recount` what had been noted for those with limits, and is noted now.

    Raises:
        SettingsError: the database is not migrated.
        DatabaseUnavailable: it cannot be reached.
    """

    async def work() -> tuple[dict[str, Usage], dict[str, tuple[Usage, Usage]]]:
        async with _opened_database(settings) as database:
            await database.check()
            recounted = await database.recount() if recount else {}
            found = await database.usages()
            return {tenant: await database.usage(tenant) for tenant in found}, recounted

    return asyncio.run(work())


def create_token(settings: Settings, new: NewApiToken) -> ApiToken:
    """Keep a new static token. Raises SettingsError when the database is not migrated, and DatabaseUnavailable."""

    async def work() -> ApiToken:
        async with _opened_tokens(settings) as tokens:
            return await tokens.create_token(new)

    return asyncio.run(work())


def list_tokens(settings: Settings) -> list[ApiToken]:
    """Return all static tokens, the oldest first. Raises like `create_token`."""

    async def work() -> list[ApiToken]:
        async with _opened_tokens(settings) as tokens:
            return await tokens.list_tokens()

    return asyncio.run(work())


def revoke_token(settings: Settings, token_id: str) -> ApiToken | None:
    """Revoke a static token and return it; None when there is none of that id. Raises like `create_token`."""

    async def work() -> ApiToken | None:
        async with _opened_tokens(settings) as tokens:
            return await tokens.revoke_token(token_id)

    return asyncio.run(work())


@asynccontextmanager
async def _opened_tokens(settings: Settings) -> AsyncIterator[TokenStore]:
    """Give the database for a command about tokens; the embedded one is made first, so that no start is needed."""
    async with _opened_database(settings, makes_directory=True) as database:
        if settings.sqlite_path is not None:
            await database.migrate()
        await database.check()
        yield database


def with_deliveries(settings: Settings, work: Callable[[Deliveries], Awaitable[T]]) -> T:
    """Run `work` on the deliveries of events, for a command of an operator.

    Raises:
        SettingsError: the database is not migrated.
        DatabaseUnavailable: what was done until then is done.
    """
    return _with_database(settings, lambda database: work(database.deliveries))


def with_jobs(settings: Settings, work: Callable[[JobQueue], Awaitable[T]]) -> T:
    """Run `work` on the jobs of finished files, for a command of an operator.

    Raises:
        SettingsError: the database is not migrated.
        DatabaseUnavailable: what was done until then is done.
    """
    return _with_database(settings, lambda database: work(database.jobs))


def _with_database(settings: Settings, work: Callable[[SurveyedDatabase], Awaitable[T]]) -> T:
    async def run_it() -> T:
        async with _opened_database(settings) as database:
            await database.check()
            return await work(database)

    return asyncio.run(run_it())


@asynccontextmanager
async def _opened(
    settings: Settings, tenancy: Tenancy
) -> AsyncIterator[tuple[SurveyedDatabase, Stores[SurveyedStore]]]:
    """Give both for a command of an operator: nothing is migrated."""
    async with _opened_database(settings) as database:
        await database.check()
        await _check_routes(database, tenancy)
        stores = assembly.stores(settings, tenancy)
        try:
            yield database, stores
        finally:
            await stores.close()


async def _serve(settings: Settings, reuse_port: bool) -> None:
    async with AsyncExitStack() as stack:
        wakes: list[Callable[[], None]] = []
        outbox = assembly.outbox(settings, wakes)
        database = await stack.enter_async_context(_opened_database(settings, outbox, makes_directory=True))
        tenancy = load_tenancy(settings)
        tenants = Tenants(tenancy.tenants, others=tenancy.others)
        stores = await _prepared(stack, settings, tenancy, tenants, database)
        holder = _holder()
        processors = _processors(settings, tenancy)
        keeping = assembly.keeping(settings, tenancy, assembly.processing(settings, tenancy, processors))
        instant = assembly.instant_rules(settings, tenancy, keeping)
        writers, hooks = Writers(), assembly.hooks(settings)
        stack.push_async_callback(hooks.close)
        completion = Completion(database, stores, holder, tenants, hooks, keeping)
        relay = _relay(stack, settings, tenancy, database, writers, holder)
        feed = Feed(database, database.events, FeedRules(most=settings.max_listeners), time.monotonic)
        wakes += [relay.wake, feed.wake]
        stack.push_async_callback(completion.stop)
        authority = assembly.authority(settings, database)
        stack.push_async_callback(authority.close)
        expiry = assembly.expiry(settings, keeping)
        uploads = assembly.uploads(
            settings, database, stores, tenants, writers, completion, holder, authority, hooks, expiry
        )
        jobs = Jobs(
            database, stores, completion, assembly.job_rules(settings, tenancy), assembly.own_clocks(), database
        )
        stack.push_async_callback(jobs.stop)
        direct = DirectUploads(database, stores, uploads, completion, assembly.direct_rules(settings, expiry))
        evidence = Evidence(database, direct)
        await stack.enter_async_context(_queue_watched(settings, evidence))
        _start_worker(stack, settings, database, stores, processors if settings.worker == "on" else ())
        config = assembly.web_config(settings)
        app = make_app(config, uploads, authority)
        if settings.offers_api:
            audit = _audit(stack, settings, database, tenants)
            services = assembly.api_services(
                settings, database, stores, uploads, direct, evidence, feed, audit, writers, instant
            )
            add_api(app, config, services, authority)
        if assembly.has_page(settings):
            _add_page(settings, app, stores, keeping)
        _crash_at_an_answer(settings, app)
        server = _server(stack, settings, app, reuse_port)
        await _serve_metrics(stack, settings, tenancy, database, uploads, server)
        await database.listen(writers.taken_over)
        jobs.start()
        relay.start()
        await server.start()
        _leave_to_itself_what_stays()
        _announce(settings.model_copy(update={"port": server.port}), has_page=assembly.has_page(settings))
        await _until_told_to_stop()
        log.info(LogEvent.SERVER_DRAINING)
        await feed.close()
        await _drain(server, writers, settings.drain_timeout)
    log.info(LogEvent.SERVER_STOPPED)


def _leave_to_itself_what_stays() -> None:
    """Have the garbage collector look no more at what was made so far.

    All of it stays until the end, and a full collection would go through it: 0.1 s in which nobody is answered.
    """
    gc.collect()
    gc.freeze()


async def _work(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_opened_database(settings, makes_directory=True))
        tenancy = load_tenancy(settings)
        processors = _processors(settings, tenancy)
        if not processors:
            raise SettingsError("TUSGATE_PROCESSORS: expected names of processors, as gateways have")
        stores = await _prepared(stack, settings, tenancy, Tenants(), database)
        _start_worker(stack, settings, database, stores, processors)
        log.info(LogEvent.WORKER_STARTED, pid=os.getpid(), processors=",".join(each.name for each in processors))
        await _until_told_to_stop()
    log.info(LogEvent.SERVER_STOPPED)


def _relay(
    stack: AsyncExitStack,
    settings: Settings,
    tenancy: Tenancy,
    database: SurveyedDatabase,
    writers: Writers,
    holder: str,
) -> Relay:
    lines = assembly.lines(settings, tenancy, partial(_stop, database, writers))
    relay = Relay(database.deliveries, lines, holder, assembly.relay_rules(settings))
    stack.push_async_callback(relay.stop)
    return relay


def _audit(stack: AsyncExitStack, settings: Settings, database: SurveyedDatabase, tenants: Tenants) -> Audit:
    audit = Audit(database, is_kept=settings.access_retention is not None, tenants=tenants)
    stack.push_async_callback(audit.close)
    return audit


def _start_worker(
    stack: AsyncExitStack,
    settings: Settings,
    database: SurveyedDatabase,
    stores: Stores[SurveyedStore],
    processors: Sequence[Processor],
) -> None:
    """Begin to do jobs of these processors, until `stack` is left."""
    if not processors:
        return
    # Not at the top: a gateway without processors is smaller without what runs them.
    from tusgate.processors.options import options_of
    from tusgate.processors.port import ProcessorSandbox
    from tusgate.service.worker import Worker, WorkerRules

    largest = {processor.name: processor.largest for processor in processors}
    if settings.scratch_dir is not None:
        settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    rules = WorkerRules(slots=settings.worker_jobs, scratch=settings.scratch_dir)
    worker = Worker(database.jobs, stores, largest, ProcessorSandbox(options_of(settings)), _holder(), rules)
    stack.push_async_callback(worker.stop)
    worker.start()


def _processors(settings: Settings, tenancy: Tenancy) -> list[Processor]:
    """Return the processors that files get here. Raises SettingsError when one is missing."""
    names = names_of_processors(settings, tenancy)
    if not names:
        return []
    from tusgate.processors.registry import find  # likewise

    return find(names)


def _holder() -> str:
    """Return what this process is known by."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _server(stack: AsyncExitStack, settings: Settings, app: Application, reuse_port: bool) -> WebServer:
    server = WebServer(
        app,
        listen(settings.host, settings.port, shared=reuse_port),
        max_connections=connections_allowed(settings.max_connections, settings.max_downloads),
        keepalive=settings.keepalive_timeout,
        answer_patience=settings.idle_timeout,
    )
    stack.push_async_callback(server.close)
    return server


async def _serve_metrics(
    stack: AsyncExitStack,
    settings: Settings,
    tenancy: Tenancy,
    database: SurveyedDatabase,
    uploads: Uploads,
    server: WebServer,
) -> None:
    """Serve metrics where they are wanted, until `stack` is left: of a process that drains, too."""
    if settings.metrics is None:
        return
    # Not at the top: a gateway without metrics is smaller without what writes them.
    from tusgate.service.observation import Observer
    from tusgate.web.metrics import Metrics, make_metrics_app

    sinks = [sink.name for sink in settings.sinks]
    processors = sorted(known_processors(settings, tenancy))
    metrics = Metrics(Observer(database), uploads.budget, server, sinks, processors)
    listener = listen(*settings.metrics, setting="TUSGATE_METRICS")
    own = WebServer(make_metrics_app(metrics), listener, max_connections=SCRAPERS)
    stack.push_async_callback(own.close)
    await own.start()
    log.info(LogEvent.METRICS_STARTED, port=own.port)


def _announce(settings: Settings, *, has_page: bool) -> None:
    url = settings.endpoint_url
    page = url.removesuffix(settings.base_path) + "/" if has_page else None
    log.info(LogEvent.SERVER_STARTED, url=url, page=page, auth=",".join(settings.auth))


def _crash_at_an_answer(settings: Settings, app: Application) -> None:
    if settings.crash is not None:
        crash = Crash(settings.crash)
        before, after = partial(crash.passing, BEFORE_ANSWER), partial(crash.passing, AFTER_ANSWER)
        watch_answers(app, settings.base_path, before, after)
        log.warning(LogEvent.CRASH_AWAITED, place=settings.crash)


async def _drain(server: WebServer, writers: Writers, timeout: float) -> None:
    """Take no new requests and let the running ones save their bytes; readiness drops first."""
    writers.draining = True
    await server.stop_accepting()
    try:
        async with asyncio.timeout(timeout):
            await writers.drain()
    except TimeoutError:
        log.warning(LogEvent.SERVER_DRAIN_INCOMPLETE, seconds=timeout)


async def _until_told_to_stop() -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)  # the next one ends the process the hard way


@asynccontextmanager
async def _opened_database(
    settings: Settings, outbox: Outbox | None = None, *, makes_directory: bool = False
) -> AsyncIterator[SurveyedDatabase]:
    """Give the database. `makes_directory`: that of an embedded one, for those who migrate it."""
    database: SurveyedDatabase
    outbox = outbox or assembly.outbox(settings, [])
    if settings.sqlite_path is not None:
        if makes_directory:
            settings.sqlite_path.parent.mkdir(parents=True, exist_ok=True)
        database = SqliteDatabase(settings.sqlite_path, outbox=outbox)
    else:
        assert settings.database_url is not None
        database = PostgresDatabase(
            settings.database_url.get_secret_value(),
            pool_size=settings.database_connections,
            command_timeout=8.0,
            transaction_pooling=settings.database_pooling == "transaction",
            outbox=outbox,
        )
    try:
        yield database if settings.crash is None else Crash(settings.crash).in_database(database)
    finally:
        await database.close()


async def _stop(database: Database, writers: Writers, upload: Upload, reason: str) -> None:
    """Let an upload fail that still takes bytes, and end its writer. Raises DeliveryFailed: it is told again."""
    try:
        with suppress(Fenced, UploadNotFound):
            current = await database.get(upload.scope, upload.id)
            if current.state is State.UPLOADING:
                await let_fail(database, writers, current, reason)
    except Unavailable as error:
        raise DeliveryFailed(str(error)) from error


async def _prepared(
    stack: AsyncExitStack, settings: Settings, tenancy: Tenancy, tenants: Tenants, database: SurveyedDatabase
) -> Stores[SurveyedStore]:
    """Return the stores, to be closed by `stack`, after the database was made ready for them."""
    await _prepare(database, tenancy, tenants, embedded=settings.sqlite_path is not None)
    stores = assembly.stores(settings, tenancy)
    stack.push_async_callback(stores.close)
    return stores


async def _prepare(database: SurveyedDatabase, tenancy: Tenancy, tenants: Tenants, *, embedded: bool) -> None:
    """Migrate the embedded database; check a server, unless it is away: it is checked again by its first use.

    Raises SettingsError when a route has moved. Quotas that cannot be told now are told before the first creation.
    """
    if embedded:
        for name in await database.migrate():
            log.info(LogEvent.MIGRATION_APPLIED, name=name)
    try:
        await database.check()
        await _check_routes(database, tenancy)
        await tenants.prepare_all(database)
    except Unavailable as error:
        log.warning(LogEvent.DATABASE_UNAVAILABLE, error=str(error))


async def _check_routes(database: SurveyedDatabase, tenancy: Tenancy) -> None:
    """Refuse to start when what was stored would be looked for elsewhere. Raises SettingsError."""
    for route in await database.check_routes(tenancy.places):
        if route.is_used:
            where = "is not in the tenants file" if route.configured is None else f"now leads to {route.configured}"
            raise SettingsError(
                f"routes.{route.name}: expected {route.recorded}, where uploads lie, but it {where}: keep it as it was,"
                " and give tenants another route for their new uploads"
            )
        if route.configured is not None:
            log.info(LogEvent.ROUTE_MOVED, route=route.name, former=route.recorded, place=route.configured)


@asynccontextmanager
async def _queue_watched(settings: Settings, evidence: Evidence) -> AsyncIterator[None]:
    """Act on the reports of the queue of S3 events, where there is one."""
    if settings.s3_events_queue is None:
        yield
        return
    access_key, secret_key, token = settings.s3_access_key, settings.s3_secret_key, settings.s3_session_token
    assert access_key is not None  # the settings have checked that S3 is whole
    assert secret_key is not None
    config = QueueConfig(
        url=settings.s3_events_queue,
        region=settings.s3_region,
        access_key=access_key.get_secret_value(),
        secret_key=secret_key.get_secret_value(),
        session_token=token.get_secret_value() if token is not None else None,
    )
    watch = QueueWatch(SqsReports(config), evidence)
    watch.start()
    try:
        yield
    finally:
        await watch.stop()


def _add_page(settings: Settings, app: Application, stores: Stores[SurveyedStore], keeping: Keeping) -> None:
    """Serve the page; it listens where something is done with files, and told."""
    tells = settings.offers_api and settings.event_stream != "off" and keeping.processing is not None
    direct, events = assembly.direct_door(settings, stores), ROOT.lstrip("/") if tells else None
    pictures = assembly.content_origins(settings, stores) if tells else ()
    add_page(app, endpoint=settings.base_path.lstrip("/"), direct=direct, events=events, pictures=pictures)
