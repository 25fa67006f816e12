"""Settings become parts: adapters, and the rules that services go by. `app` puts them together.

Nothing here opens, starts or waits for anything.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tusgate.core.errors import SettingsError
from tusgate.core.events import NO_OUTBOX, USUAL_TYPES, EventType, Outbox, RetryPlan, Subscription
from tusgate.core.model import Keeping, Scope
from tusgate.core.possession import ChallengeKeys
from tusgate.core.processing import Declared
from tusgate.crash import Crash
from tusgate.filesystem import DirectoryStore
from tusgate.identity.authority import CombinedAuthority
from tusgate.identity.config import IssuerConfig, ProxyConfig
from tusgate.identity.proxies import VouchedUsers
from tusgate.identity.static_tokens import StaticTokens
from tusgate.s3.config import S3Config
from tusgate.s3.manner import Encryption, Manner
from tusgate.s3.profiles import PROFILES
from tusgate.s3.sign import Credentials
from tusgate.s3.store import S3Store
from tusgate.service.budget import Budget
from tusgate.service.direct import DirectRules, DirectUploads
from tusgate.service.expirer import OwnClocks
from tusgate.service.external import ExternalJobs
from tusgate.service.files import Files
from tusgate.service.hooks import Asked, Hooks
from tusgate.service.instant import READERS, InstantRules, InstantUploads
from tusgate.service.intake import IntakeTools
from tusgate.service.jobs import JobRules
from tusgate.service.ledger import Expiry
from tusgate.service.passwords import Passwords
from tusgate.service.relay import Line, RelayRules
from tusgate.service.sharing import Sharing
from tusgate.service.stores import Stores
from tusgate.service.uploads import UploadRules, Uploads
from tusgate.service.warm import WarmCells
from tusgate.settings.dedup import dedup_of, instant_of
from tusgate.settings.hooks import HttpHookDeclared
from tusgate.settings.model import profile_at
from tusgate.settings.processing import known_processors, processing_of
from tusgate.settings.sinks import TusdDeclared
from tusgate.sinks.choosing import sink_of
from tusgate.sinks.document import document_for_clients
from tusgate.sinks.http_hook import HttpHook, HttpHookConfig
from tusgate.sinks.plugin_hook import load_plugin
from tusgate.sinks.posting import Receiver
from tusgate.sinks.tusd_sink import TusdConfig, TusdSink
from tusgate.web.api import ApiServices
from tusgate.web.api.door import ROOT
from tusgate.web.api.events import EventsApi
from tusgate.web.config import WebConfig
from tusgate.web.page import DirectDoor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from pydantic import SecretStr

    from tusgate.core.model import Upload
    from tusgate.core.processing import Processing
    from tusgate.identity.authority import Verifier
    from tusgate.ports import (
        Authority,
        Database,
        Hook,
        Sink,
        SurveyedDatabase,
        SurveyedStore,
        TokenStore,
    )
    from tusgate.processors import Processor
    from tusgate.service.audit import Audit
    from tusgate.service.completion import Completion
    from tusgate.service.evidence import Evidence
    from tusgate.service.feed import Feed
    from tusgate.service.tenants import Tenants
    from tusgate.service.writers import Writers
    from tusgate.settings import Settings
    from tusgate.settings.hooks import AnyHook
    from tusgate.settings.issuers import JwtIssuer
    from tusgate.settings.sinks import AnySink, Reached
    from tusgate.settings.tenants import Route, RouteKeys, Tenancy

    Stop = Callable[[Upload, str], Awaitable[None]]


def processing(settings: Settings, tenancy: Tenancy, processors: Sequence[Processor]) -> Processing | None:
    """Return which jobs finished files get; None: none at all."""
    installed = [Declared(each.name, each.version, tuple(each.types)) for each in processors]
    return processing_of(settings, tenancy, installed)


def has_page(settings: Settings) -> bool:
    """Return whether the upload page is served: in all other modes it could upload nothing."""
    return bool({"open", "proxy"} & set(settings.auth))


def outbox(settings: Settings, wakes: Sequence[Callable[[], None]]) -> Outbox:
    """Return who is told of what happens. `wakes` are called: a database is made before what reads it."""
    if not settings.sinks and settings.event_stream == "off":
        return NO_OUTBOX

    def wake() -> None:
        for each in wakes:
            each()

    wanted = tuple(Subscription(sink.name, frozenset(sink.events), frozenset(sink.tenants)) for sink in settings.sinks)
    streamed: dict[str, Collection[EventType]] = {"off": (), "on": USUAL_TYPES, "progress": tuple(EventType)}
    return Outbox(wanted, wake, settings.progress_interval, frozenset(streamed[settings.event_stream]))


def lines(settings: Settings, tenancy: Tenancy, stop: Stop) -> list[Line]:
    """Return whom the relay tells what. `stop`: called for an upload that a receiver wants no more of."""
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


def hooks(settings: Settings) -> Hooks:
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


def relay_rules(settings: Settings) -> RelayRules:
    """Return how persistently events are told."""
    return RelayRules(
        retention=settings.event_retention,
        dead_retention=settings.dead_event_retention,
        tidies_always=settings.event_stream != "off",
    )


def stores(settings: Settings, tenancy: Tenancy) -> Stores[SurveyedStore]:
    """Return the store of the plain settings, and one for each route of tenants."""
    keys = dict(tenancy.keys)
    others = {name: S3Store(route_config(settings, route, keys[name])) for name, route in tenancy.routes}
    crash = None if settings.crash is None else Crash(settings.crash)
    if crash is None:
        return Stores(_store(settings), others)
    return Stores(crash.in_store(_store(settings)), {name: crash.in_store(store) for name, store in others.items()})


def route_config(settings: Settings, route: Route, keys: RouteKeys) -> S3Config:
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
        readers=settings.max_downloads + READERS,
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
    return S3Store(own_config(settings)) if settings.store_dir is None else DirectoryStore(settings.store_dir)


def own_config(settings: Settings) -> S3Config:
    """Return where the store of the plain settings is. Raises SettingsError when it is not named whole."""
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
        readers=settings.max_downloads + READERS,
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


def authority(settings: Settings, tokens: TokenStore) -> Authority:
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


def uploads(
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
    """Return the service that takes uploads in."""
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


def api_services(
    settings: Settings,
    database: SurveyedDatabase,
    stores: Stores[SurveyedStore],
    uploads: Uploads,
    direct: DirectUploads,
    evidence: Evidence,
    feed: Feed,
    audit: Audit,
    writers: Writers,
    instant: InstantRules,
) -> ApiServices:
    """Return what the API serves."""
    files = Files(database, stores, uploads, settings.max_downloads)
    secret = settings.s3_events_secret
    external = [name for name, _ in settings.external_processors]
    events = EventsApi(feed, partial(document_for_clients, source=settings.event_source))
    return ApiServices(
        files=files,
        uploads=uploads,
        direct=direct,
        audit=audit,
        instant=InstantUploads(database, stores, uploads, instant, time.time),
        sharing=Sharing(database, files, Passwords()) if settings.offers_shares else None,
        evidence=None if secret is None else (evidence, secret.get_secret_value()),
        events=None if settings.event_stream == "off" else events,
        jobs=ExternalJobs(database.jobs, stores, external, lambda: writers.draining) if external else None,
    )


def direct_door(settings: Settings, stores: Stores[SurveyedStore]) -> DirectDoor | None:
    """Return what the page needs to know about direct uploads; None where there are none."""
    origins = {store.direct_origin for _, store in stores if store.direct_origin is not None}
    if settings.direct != "on" or not settings.offers_api or not origins:
        return None
    return DirectDoor(endpoint=f"{ROOT.lstrip('/')}/uploads", stores=tuple(sorted(origins)))


def content_origins(settings: Settings, stores: Stores[SurveyedStore]) -> list[str]:
    """Return the origins, beside our own, that files are handed out from."""
    if settings.downloads == "off":
        return []
    address = urlsplit(settings.download_url or "")
    own = [f"{address.scheme}://{address.netloc}"] if address.netloc else []
    redirected = {store.direct_origin for _, store in stores if settings.downloads == "redirect"}
    return own + sorted(origin for origin in redirected if origin is not None)


def direct_rules(settings: Settings, expiry: Expiry) -> DirectRules:
    """Return what holds for direct uploads."""
    return DirectRules(
        offered=settings.direct == "on",
        url_ttl=round(settings.direct_url_ttl),
        part_size=settings.part_size,
        finish_wait=settings.finish_wait,
        expiry=expiry,
    )


def instant_rules(settings: Settings, tenancy: Tenancy, keeping: Keeping) -> InstantRules:
    """Return what holds for instant uploads. Raises SettingsError where they are wanted and cannot be."""
    keys = [key.get_secret_value() for key in settings.instant_keys]
    return InstantRules(
        keys=ChallengeKeys(keys) if keys else None, tenants=instant_of(settings, tenancy), keeping=keeping
    )


def expiry(settings: Settings, keeping: Keeping) -> Expiry:
    """Return when uploads and files expire."""
    return Expiry(lifetime=settings.upload_expiry, max_age=settings.lifetime_limit, keeping=keeping)


def keeping(settings: Settings, tenancy: Tenancy, processing: Processing | None) -> Keeping:
    """Return what becomes of files once they are complete."""
    return Keeping(
        lifetime=settings.file_expiry,
        digests=settings.file_digest == "sha256",
        processing=processing,
        dedup=dedup_of(settings, tenancy),
    )


def job_rules(settings: Settings, tenancy: Tenancy) -> JobRules:
    """Return how often the background jobs run, and how much they do."""
    return JobRules(
        ended_memory=settings.ended_retention,
        access_memory=settings.access_retention,
        digests=settings.file_digest == "sha256",
        dedup=dedup_of(settings, tenancy),
        processors=known_processors(settings, tenancy),
    )


def web_config(settings: Settings) -> WebConfig:
    """Return what the HTTP server goes by."""
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


def own_clocks() -> OwnClocks:
    """Return the clocks of this process, to judge that of the database by."""
    return OwnClocks(steady=_uptime, wall=lambda: datetime.now(UTC))


def _uptime() -> float:
    """Return seconds by a clock that nobody sets and that, where there is such a one, counts sleep too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
