"""The composition root: settings become adapters, adapters a service, the service a server. Only it knows all.

Start: database (migrated in embedded mode), store, jobs, then the socket; a dependency that is away does not stop the
start: `/readyz` says so until it is back. End: stop accepting, let every request save its bytes, then close all.
"""

from __future__ import annotations

import asyncio
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

from tusgate.core.checkup import origins_to_ask
from tusgate.core.errors import DeliveryFailed, Fenced, SettingsError, Unavailable, UploadNotFound
from tusgate.core.events import NO_OUTBOX, USUAL_TYPES, EventType, Outbox, RetryPlan, Subscription
from tusgate.core.model import Keeping, Scope, State
from tusgate.core.processing import Declared
from tusgate.crash import AFTER_ANSWER, BEFORE_ANSWER, Crash
from tusgate.database.postgres import PostgresDatabase
from tusgate.database.sqlite import SqliteDatabase
from tusgate.filesystem import DirectoryStore
from tusgate.identity.authority import CombinedAuthority
from tusgate.identity.config import IssuerConfig, ProxyConfig
from tusgate.identity.proxies import VouchedUsers
from tusgate.identity.static_tokens import StaticTokens
from tusgate.processors.options import options_of
from tusgate.processors.port import ProcessorSandbox
from tusgate.processors.registry import find as find_processors
from tusgate.s3.config import S3Config
from tusgate.s3.door import BucketDoor
from tusgate.s3.manner import Encryption, Manner
from tusgate.s3.profiles import PROFILES
from tusgate.s3.queue import QueueConfig, SqsReports
from tusgate.s3.sign import Credentials
from tusgate.s3.store import S3Store
from tusgate.service.audit import Audit
from tusgate.service.budget import Budget
from tusgate.service.checkup import Bucket, Checkup, is_bad
from tusgate.service.cleanup import clean_up as run_clean_up
from tusgate.service.cleanup import foresee_clean_up
from tusgate.service.completion import Completion
from tusgate.service.direct import DirectRules, DirectUploads
from tusgate.service.evidence import Evidence, QueueWatch
from tusgate.service.expirer import OwnClocks
from tusgate.service.external import ExternalJobs
from tusgate.service.feed import Feed, FeedRules
from tusgate.service.files import Files
from tusgate.service.hooks import Asked, Hooks
from tusgate.service.intake import IntakeTools
from tusgate.service.jobs import JobRules, Jobs
from tusgate.service.ledger import Expiry
from tusgate.service.passwords import Passwords
from tusgate.service.reconcile import Reconciler
from tusgate.service.relay import Line, Relay, RelayRules
from tusgate.service.sharing import Sharing
from tusgate.service.stores import Stores
from tusgate.service.tenants import Tenants
from tusgate.service.uploads import UploadRules, Uploads, let_fail
from tusgate.service.warm import WarmCells
from tusgate.service.worker import Worker, WorkerRules
from tusgate.service.writers import Writers
from tusgate.settings.hooks import HttpHookDeclared
from tusgate.settings.model import profile_at
from tusgate.settings.processing import names_of_processors, processing_of
from tusgate.settings.sinks import TusdDeclared
from tusgate.settings.tenants import load_tenancy
from tusgate.sinks.choosing import sink_of
from tusgate.sinks.document import document_of
from tusgate.sinks.http_hook import HttpHook, HttpHookConfig
from tusgate.sinks.plugin_hook import load_plugin
from tusgate.sinks.posting import Receiver
from tusgate.sinks.tusd_sink import TusdConfig, TusdSink
from tusgate.telemetry import LogEvent
from tusgate.web.api import ApiServices, add_api
from tusgate.web.api.door import ROOT
from tusgate.web.api.events import EventsApi
from tusgate.web.config import WebConfig
from tusgate.web.connections import connections_allowed
from tusgate.web.last_words import watch_answers
from tusgate.web.page import DirectDoor, add_page
from tusgate.web.server import WebServer, listen, make_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
    from datetime import timedelta

    from aiohttp.web import Application
    from pydantic import SecretStr

    from tusgate.core.access import ApiToken, NewApiToken
    from tusgate.core.checkup import Finding as CheckupFinding
    from tusgate.core.clockwatch import Verdict
    from tusgate.core.model import Upload
    from tusgate.core.processing import Processing
    from tusgate.core.quota import Usage
    from tusgate.identity.authority import Verifier
    from tusgate.ports import (
        Authority,
        Database,
        Deliveries,
        Hook,
        Sink,
        SurveyedDatabase,
        SurveyedStore,
        TokenStore,
    )
    from tusgate.processors import Processor
    from tusgate.service.cleanup import Outcome
    from tusgate.service.reconcile import Finding, Looked, Mending
    from tusgate.settings import Settings
    from tusgate.settings.hooks import AnyHook
    from tusgate.settings.issuers import JwtIssuer
    from tusgate.settings.sinks import AnySink, Reached
    from tusgate.settings.tenants import Route, RouteKeys, Tenancy

    Stop = Callable[[Upload, str], Awaitable[None]]

log = structlog.get_logger(__name__)

T = TypeVar("T")

DRY_RUN_LIMIT = 1000
"""Rows of each kind that a dry run looks at: it locks them for as long."""


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
        async with _opened_database(settings) as database:
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
        async with _opened(settings) as (database, stores):
            rules = JobRules()
            if release and not dry_run:
                await database.release_expiry()
            expirer = rules.expirer(database, _own_clocks())
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
        processors = find_processors(names_of_processors(settings, tenancy))
        async with _opened(settings) as (database, stores):
            reconciler = Reconciler(
                database=database,
                stores=stores,
                mending=mending,
                now=datetime.now(UTC),
                grace=grace,
                keeping=_keeping(settings, _processing(settings, tenancy, processors)),
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
            page = f"{own.scheme}://{own.netloc}" if _has_page(settings) else None
            origins = origins_to_ask(settings.page_origins, page)
            findings = []
            async for finding in Checkup(database, buckets, origins, fixes_cors=fix_cors).findings():
                findings.append(finding)
                tell(finding)
            return not is_bad(findings)

    return asyncio.run(work())


async def _buckets(settings: Settings, tenancy: Tenancy, stack: AsyncExitStack) -> list[Bucket]:
    """Return all stores, and their doors where parts are sent past the gateway. `stack` closes them."""
    stores = _stores(settings, tenancy)
    stack.push_async_callback(stores.close)
    configs: dict[str | None, S3Config] = {}
    if settings.store_dir is None:
        configs[None] = _own_config(settings)
    keys = dict(tenancy.keys)
    configs |= {name: _route_config(settings, route, keys[name]) for name, route in tenancy.routes}
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
    async with _opened_database(settings) as database:
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

    async def run_it() -> T:
        async with _opened_database(settings) as database:
            await database.check()
            return await work(database.deliveries)

    return asyncio.run(run_it())


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[SurveyedDatabase, Stores[SurveyedStore]]]:
    """Give both for a command of an operator: nothing is migrated."""
    async with _opened_database(settings) as database:
        await database.check()
        tenancy = load_tenancy(settings)
        await _check_routes(database, tenancy)
        stores = _stores(settings, tenancy)
        try:
            yield database, stores
        finally:
            await stores.close()


def _own_clocks() -> OwnClocks:
    return OwnClocks(steady=_uptime, wall=lambda: datetime.now(UTC))


def _uptime() -> float:
    """Return seconds by a clock that nobody sets and that, where there is such a one, counts sleep too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


async def _serve(settings: Settings, reuse_port: bool) -> None:
    async with AsyncExitStack() as stack:
        wakes: list[Callable[[], None]] = []
        outbox = _outbox(settings, wakes)
        database = await stack.enter_async_context(_opened_database(settings, outbox))
        tenancy = load_tenancy(settings)
        tenants = Tenants(tenancy.tenants, others=tenancy.others)
        stores = await _prepared(stack, settings, tenancy, tenants, database)
        holder = _holder()
        processors = find_processors(names_of_processors(settings, tenancy))
        keeping = _keeping(settings, _processing(settings, tenancy, processors))
        writers, hooks = Writers(), _hooks(settings)
        stack.push_async_callback(hooks.close)
        completion = Completion(database, stores, holder, tenants, hooks, keeping)
        relay = _relay(stack, settings, tenancy, database, writers, holder)
        feed = Feed(database, database.events, FeedRules(most=settings.max_listeners), time.monotonic)
        wakes += [relay.wake, feed.wake]
        stack.push_async_callback(completion.stop)
        authority = _authority(settings, database)
        stack.push_async_callback(authority.close)
        expiry = _expiry(settings, keeping)
        uploads = _uploads(settings, database, stores, tenants, writers, completion, holder, authority, hooks, expiry)
        jobs = Jobs(database, stores, completion, _job_rules(settings), _own_clocks(), database)
        stack.push_async_callback(jobs.stop)
        direct = DirectUploads(database, stores, uploads, completion, _direct_rules(settings, expiry))
        evidence = Evidence(database, direct)
        await stack.enter_async_context(_queue_watched(settings, evidence))
        _start_worker(stack, settings, database, stores, processors if settings.worker == "on" else ())
        config = _web_config(settings)
        app = make_app(config, uploads, authority)
        if settings.offers_api:
            audit = _audit(stack, settings, database, tenants)
            services = _api_services(settings, database, stores, uploads, direct, evidence, feed, audit, writers)
            add_api(app, config, services, authority)
        if _has_page(settings):
            _add_page(settings, app, stores, keeping)
        _crash_at_an_answer(settings, app)
        server = _server(settings, app, reuse_port)
        stack.push_async_callback(server.close)
        await database.listen(writers.taken_over)
        jobs.start()
        relay.start()
        await server.start()
        _announce(settings.model_copy(update={"port": server.port}), has_page=_has_page(settings))
        await _until_told_to_stop()
        log.info(LogEvent.SERVER_DRAINING)
        await feed.close()
        await _drain(server, writers, settings.drain_timeout)
    log.info(LogEvent.SERVER_STOPPED)


async def _work(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(_opened_database(settings))
        tenancy = load_tenancy(settings)
        processors = find_processors(names_of_processors(settings, tenancy))
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
    lines = _lines(settings, tenancy, partial(_stop, database, writers))
    relay = Relay(database.deliveries, lines, holder, _relay_rules(settings))
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
    largest = {processor.name: processor.largest for processor in processors}
    if settings.scratch_dir is not None and processors:
        settings.scratch_dir.mkdir(parents=True, exist_ok=True)
    rules = WorkerRules(slots=settings.worker_jobs, scratch=settings.scratch_dir)
    worker = Worker(database.jobs, stores, largest, ProcessorSandbox(options_of(settings)), _holder(), rules)
    stack.push_async_callback(worker.stop)
    worker.start()


def _holder() -> str:
    """Return what this process is known by."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def _processing(settings: Settings, tenancy: Tenancy, processors: Sequence[Processor]) -> Processing | None:
    installed = [Declared(each.name, each.version, tuple(each.types)) for each in processors]
    return processing_of(settings, tenancy, installed)


def _server(settings: Settings, app: Application, reuse_port: bool) -> WebServer:
    return WebServer(
        app,
        listen(settings.host, settings.port, shared=reuse_port),
        max_connections=connections_allowed(settings.max_connections, settings.max_downloads),
        keepalive=settings.keepalive_timeout,
        answer_patience=settings.idle_timeout,
    )


def _has_page(settings: Settings) -> bool:
    """Return whether the upload page is served: in all other modes it could upload nothing."""
    return bool({"open", "proxy"} & set(settings.auth))


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
async def _opened_database(settings: Settings, outbox: Outbox | None = None) -> AsyncIterator[SurveyedDatabase]:
    database: SurveyedDatabase
    outbox = outbox or _outbox(settings, [])
    if settings.sqlite_path is not None:
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


def _outbox(settings: Settings, wakes: Sequence[Callable[[], None]]) -> Outbox:
    """Return who is told of what happens. `wakes` are called: a database is made before what reads it."""
    if not settings.sinks and settings.event_stream == "off":
        return NO_OUTBOX

    def wake() -> None:
        for each in wakes:
            each()

    wanted = tuple(Subscription(sink.name, frozenset(sink.events), frozenset(sink.tenants)) for sink in settings.sinks)
    streamed: dict[str, Collection[EventType]] = {"off": (), "on": USUAL_TYPES, "progress": tuple(EventType)}
    return Outbox(wanted, wake, settings.progress_interval, frozenset(streamed[settings.event_stream]))


def _lines(settings: Settings, tenancy: Tenancy, stop: Stop) -> list[Line]:
    return [
        Line(
            _sink(settings, sink, tenancy, stop), RetryPlan(retries=sink.retries, first=sink.retry_delay), sink.longest
        )
        for sink in settings.sinks
    ]


def _sink(settings: Settings, declared: AnySink, tenancy: Tenancy, stop: Stop) -> Sink:
    if isinstance(declared, TusdDeclared):
        tusd = TusdConfig(name=declared.name, receiver=_receiver(settings, declared), timeout=declared.timeout)
        return TusdSink(tusd, partial(_place, settings, dict(tenancy.routes)), stop)
    return sink_of(declared, settings.event_source, frozenset(settings.sink_allow))


def _receiver(settings: Settings, declared: Reached) -> Receiver:
    return Receiver(url=declared.url, secrets=declared.secrets(), allowed=frozenset(settings.sink_allow))


def _place(settings: Settings, routes: dict[str, Route], upload: Upload) -> dict[str, str]:
    """Return where the object of an upload is, in the words of tusd's stores."""
    if upload.route is None and settings.store_dir is not None:
        return {"Type": "filestore", "Path": str((settings.store_dir / "objects" / upload.object_key).absolute())}
    route = None if upload.route is None else routes.get(upload.route)
    bucket, prefix = (settings.s3_bucket, settings.s3_prefix) if route is None else (route.bucket, route.prefix)
    return {"Type": "s3store", "Bucket": bucket or "", "Key": f"{prefix}{upload.object_key}"}


async def _stop(database: Database, writers: Writers, upload: Upload, reason: str) -> None:
    """Let an upload fail that still takes bytes, and end its writer. Raises DeliveryFailed: it is told again."""
    try:
        with suppress(Fenced, UploadNotFound):
            current = await database.get(upload.scope, upload.id)
            if current.state is State.UPLOADING:
                await let_fail(database, writers, current, reason)
    except Unavailable as error:
        raise DeliveryFailed(str(error)) from error


def _hooks(settings: Settings) -> Hooks:
    """Return who is asked. Raises SettingsError for a plug-in that is not there, or does not start."""
    return Hooks([_asked(settings, hook) for hook in settings.hooks], settings.max_metadata)


def _asked(settings: Settings, declared: AnyHook) -> Asked:
    hook: Hook
    if isinstance(declared, HttpHookDeclared):
        config = HttpHookConfig(
            name=declared.name,
            receiver=_receiver(settings, declared),
            forwarded=declared.forward_headers,
            retries=declared.retries,
            backoff=declared.backoff,
        )
        hook = HttpHook(config)
    else:
        hook = load_plugin(declared.name, declared.plugin, declared.options)
    return Asked(
        hook=hook,
        moments=frozenset(declared.moments),
        tenants=frozenset(declared.tenants),
        timeout=declared.timeout,
        is_open=declared.failure == "open",
    )


def _relay_rules(settings: Settings) -> RelayRules:
    return RelayRules(
        retention=settings.event_retention,
        dead_retention=settings.dead_event_retention,
        tidies_always=settings.event_stream != "off",
    )


async def _prepared(
    stack: AsyncExitStack, settings: Settings, tenancy: Tenancy, tenants: Tenants, database: SurveyedDatabase
) -> Stores[SurveyedStore]:
    """Return the stores, to be closed by `stack`, after the database was made ready for them."""
    await _prepare(database, tenancy, tenants, embedded=settings.sqlite_path is not None)
    stores = _stores(settings, tenancy)
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


def _stores(settings: Settings, tenancy: Tenancy) -> Stores[SurveyedStore]:
    keys = dict(tenancy.keys)
    others = {name: S3Store(_route_config(settings, route, keys[name])) for name, route in tenancy.routes}
    crash = None if settings.crash is None else Crash(settings.crash)
    if crash is None:
        return Stores(_store(settings), others)
    return Stores(crash.in_store(_store(settings)), {name: crash.in_store(store) for name, store in others.items()})


def _route_config(settings: Settings, route: Route, keys: RouteKeys) -> S3Config:
    """Return what a route says, and the plain settings where it says nothing."""
    endpoint = route.endpoint or settings.s3_endpoint
    own_profile = profile_at(route.endpoint) if route.endpoint else settings.profile
    access_key = keys.access_key or settings.s3_access_key
    secret_key = keys.secret_key or settings.s3_secret_key
    token = settings.s3_session_token if keys.access_key is None else None
    assert endpoint is not None  # these three are checked by load_tenancy
    assert access_key is not None
    assert secret_key is not None
    return S3Config(
        endpoint=endpoint,
        region=route.region or settings.s3_region,
        bucket=route.bucket,
        prefix=route.prefix,
        access_key=access_key.get_secret_value(),
        secret_key=secret_key.get_secret_value(),
        session_token=token.get_secret_value() if token is not None else None,
        presign_key=_route_presign_key(settings, keys),
        profile=PROFILES[route.profile or own_profile],
        readers=settings.max_downloads,
        public_endpoint=route.public_endpoint or (None if route.endpoint else settings.s3_public_endpoint),
        manner=Manner(
            storage_class=route.storage_class,
            encryption=Encryption(route.sse),
            kms_key=route.kms_key,
            customer_key=keys.customer_key.get_secret_value() if keys.customer_key is not None else None,
            cache_control=route.cache_control,
            content_disposition=route.content_disposition,
            tags=tuple(route.tags.items()),
        ),
    )


def _store(settings: Settings) -> SurveyedStore:
    return S3Store(_own_config(settings)) if settings.store_dir is None else DirectoryStore(settings.store_dir)


def _own_config(settings: Settings) -> S3Config:
    if not (settings.s3_endpoint and settings.s3_bucket and settings.s3_access_key and settings.s3_secret_key):
        raise SettingsError("TUSGATE_S3_*: expected endpoint, bucket and keys together")
    token = settings.s3_session_token
    return S3Config(
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        bucket=settings.s3_bucket,
        prefix=settings.s3_prefix,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        session_token=token.get_secret_value() if token is not None else None,
        presign_key=_presign_key(settings),
        profile=PROFILES[settings.profile],
        readers=settings.max_downloads,
        public_endpoint=settings.s3_public_endpoint,
    )


def _presign_key(settings: Settings) -> Credentials | None:
    return _pair(settings.s3_presign_access_key, settings.s3_presign_secret_key)


def _route_presign_key(settings: Settings, keys: RouteKeys) -> Credentials | None:
    """Return the key that signs URLs into a route; that of the plain settings only where their keys do all else."""
    own = _pair(keys.presign_access_key, keys.presign_secret_key)
    return own if own is not None or keys.access_key is not None else _presign_key(settings)


def _pair(access_key: SecretStr | None, secret_key: SecretStr | None) -> Credentials | None:
    if access_key is None or secret_key is None:
        return None
    return Credentials(access_key.get_secret_value(), secret_key.get_secret_value())


def _authority(settings: Settings, tokens: TokenStore) -> Authority:
    """Return who knows the senders of requests. Static tokens come first: they are told by their prefix."""
    verifiers: list[Verifier] = []
    if "token" in settings.auth:
        verifiers.append(StaticTokens(tokens, time.time))
    if "upload-token" in settings.auth:
        from tusgate.identity.upload_tokens import UploadTokens  # its libraries take 10 MiB

        secrets_of_backends = [key.get_secret_value() for key in settings.upload_token_keys]
        verifiers.append(UploadTokens(secrets_of_backends, time.time))
    if "jwt" in settings.auth:
        from tusgate.identity.issuers import Issuers  # likewise

        verifiers.append(Issuers([_issuer_config(issuer) for issuer in settings.jwt_issuers], time.time, _uptime))
    takes_bearers = bool(verifiers)
    if "proxy" in settings.auth:
        verifiers.append(VouchedUsers(_proxy_config(settings)))
    return CombinedAuthority(verifiers, takes_bearers=takes_bearers, open_to_all="open" in settings.auth)


def _issuer_config(issuer: JwtIssuer) -> IssuerConfig:
    return IssuerConfig(
        issuer=issuer.issuer,
        audience=issuer.audience,
        jwks_url=issuer.jwks_url,
        key=issuer.key_text(),
        algorithm=issuer.algorithm,
        leeway=issuer.leeway,
        tenant=issuer.tenant or Scope().tenant,
        tenant_claim=issuer.tenant_claim,
        owner_claim=issuer.owner_claim,
        owner_prefix=issuer.owner_prefix or "",
        permissions=issuer.granted,
        permissions_claim=issuer.permissions_claim,
        permission_map=issuer.grants,
    )


def _proxy_config(settings: Settings) -> ProxyConfig:
    tenant_header = settings.proxy_tenant_header
    return ProxyConfig(
        user_field=settings.proxy_user_header.lower(),
        groups_field=settings.proxy_groups_header.lower(),
        tenant_field=None if tenant_header is None else tenant_header.lower(),
        permissions=frozenset(settings.proxy_permissions),
        admin_groups=frozenset(settings.proxy_admin_groups),
    )


def _uploads(
    settings: Settings,
    database: Database,
    stores: Stores[SurveyedStore],
    tenants: Tenants,
    writers: Writers,
    completion: Completion,
    holder: str,
    authority: Authority,
    hooks: Hooks,
    expiry: Expiry,
) -> Uploads:
    budget = Budget(settings.budget)
    tools = IntakeTools(
        database=database,
        store=stores.default,
        budget=budget,
        warm=WarmCells(budget, settings.warm_cell_ttl),
        parts_in_flight=settings.parts_in_flight,
        piece_inline_max=settings.piece_inline_max,
        max_size=settings.max_size,
        expiry=expiry,
    )
    rules = UploadRules(
        part_size=settings.part_size,
        key_template=settings.object_key,
        finish_wait=settings.finish_wait,
        holder=holder,
        resumes_by_fingerprint=settings.resume_by_fingerprint == "on",
    )
    # Only static tokens can be revoked while a request runs.
    reaffirm = authority.reaffirm if "token" in settings.auth else None
    return Uploads(tools, writers, completion, rules, lambda: datetime.now(UTC), reaffirm, stores, tenants, hooks)


def _api_services(
    settings: Settings,
    database: SurveyedDatabase,
    stores: Stores[SurveyedStore],
    uploads: Uploads,
    direct: DirectUploads,
    evidence: Evidence,
    feed: Feed,
    audit: Audit,
    writers: Writers,
) -> ApiServices:
    files = Files(database, stores, uploads, settings.max_downloads)
    secret = settings.s3_events_secret
    external = [name for name, _ in settings.external_processors]
    events = EventsApi(feed, partial(document_of, source=settings.event_source))
    return ApiServices(
        files=files,
        direct=direct,
        audit=audit,
        sharing=Sharing(database, files, Passwords()) if settings.offers_shares else None,
        evidence=None if secret is None else (evidence, secret.get_secret_value()),
        events=None if settings.event_stream == "off" else events,
        jobs=ExternalJobs(database.jobs, stores, external, lambda: writers.draining) if external else None,
    )


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


def _direct_door(settings: Settings, stores: Stores[SurveyedStore]) -> DirectDoor | None:
    """Return what the page needs to know about direct uploads; None where there are none."""
    origins = {store.direct_origin for _, store in stores if store.direct_origin is not None}
    if settings.direct != "on" or not settings.offers_api or not origins:
        return None
    return DirectDoor(endpoint=f"{ROOT.lstrip('/')}/uploads", stores=tuple(sorted(origins)))


def _add_page(settings: Settings, app: Application, stores: Stores[SurveyedStore], keeping: Keeping) -> None:
    """Serve the page; it listens where something is done with files, and told."""
    tells = settings.offers_api and settings.event_stream != "off" and keeping.processing is not None
    direct, events = _direct_door(settings, stores), ROOT.lstrip("/") if tells else None
    add_page(app, endpoint=settings.base_path.lstrip("/"), direct=direct, events=events)


def _direct_rules(settings: Settings, expiry: Expiry) -> DirectRules:
    return DirectRules(
        offered=settings.direct == "on",
        url_ttl=round(settings.direct_url_ttl),
        part_size=settings.part_size,
        finish_wait=settings.finish_wait,
        expiry=expiry,
    )


def _expiry(settings: Settings, keeping: Keeping) -> Expiry:
    return Expiry(lifetime=settings.upload_expiry, max_age=settings.lifetime_limit, keeping=keeping)


def _keeping(settings: Settings, processing: Processing | None) -> Keeping:
    digests = settings.file_digest == "sha256"
    return Keeping(lifetime=settings.file_expiry, digests=digests, processing=processing)


def _job_rules(settings: Settings) -> JobRules:
    return JobRules(
        ended_memory=settings.ended_retention,
        access_memory=settings.access_retention,
        digests=settings.file_digest == "sha256",
    )


def _web_config(settings: Settings) -> WebConfig:
    return WebConfig(
        base_path=settings.base_path,
        is_open="open" in settings.auth,
        guards_names="open" in settings.auth and settings.is_loopback,
        public_url=settings.public_url,
        public_aliases=settings.public_aliases,
        cors_origins=settings.page_origins,
        cors_headers=settings.cors_headers,
        trusted_proxies=settings.trusted_proxies,
        max_metadata=settings.max_metadata,
        expires=settings.upload_expiry is not None or settings.lifetime_limit is not None,
        idle_timeout=settings.idle_timeout,
        min_rate=settings.min_rate,
        rate_window=settings.rate_window,
        gone_status=settings.gone_status,
        downloads=settings.downloads,
        download_url=settings.download_url,
        origin_tokens=tuple(token.get_secret_value() for token in settings.origin_tokens),
        download_cache_control=settings.download_cache_control,
        share_keys=tuple(key.get_secret_value() for key in settings.share_keys),
        share_session=settings.share_session,
    )
