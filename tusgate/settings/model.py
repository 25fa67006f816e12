"""Every setting of tusgate, declared once, and what must hold between them.

A field of `Settings` is the whole declaration: its environment variable, command-line flag, TOML key, help,
row in `docs/settings.md` and redaction are derived from it.
"""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tusgate.core.access import USER
from tusgate.core.addresses import USUAL_PORTS, is_address, is_public
from tusgate.core.errors import SettingsError
from tusgate.core.grid import MIB
from tusgate.settings.hooks import HookList  # noqa: TC001 - pydantic evaluates the annotations
from tusgate.settings.issuers import JwtIssuers  # noqa: TC001 - pydantic evaluates the annotations
from tusgate.settings.kinds import (
    AuthModes,
    Bucket,
    Count,
    CrashPlace,
    DatabaseUrl,
    Directory,
    Duration,
    ExternalProcessors,
    File,
    GoneStatus,
    HeaderName,
    HeaderNames,
    KeyPrefix,
    KeyTemplate,
    Kind,
    Networks,
    OptionalDuration,
    OptionalSize,
    Origins,
    Permissions,
    Place,
    Rate,
    Secret,
    Secrets,
    ServerUrl,
    Size,
    Text,
    Texts,
    UrlPath,
    WebUrl,
    show_duration,
    show_size,
)
from tusgate.settings.sinks import HostAndPort, HostsAndPorts, Reached, Sinks

ENV_PREFIX: Final = "TUSGATE_"
API_PATH: Final = "/api/v1"
"""Where the API of files is."""
SHARES_PATH: Final = "/s"
"""Where share links lead."""
S3_MIN_PART_SIZE: Final = 5 * MIB
"""Amazon S3: every part but the last has at least 5 MiB."""
SWEEP_MARGIN: Final = 3600.0
"""Seconds by which an upload ends before the store may throw its parts away."""

S3Profile = Literal[
    "aws",
    "minio",
    "versity",
    "ceph",
    "r2",
    "b2",
    "gcs",
    "wasabi",
    "garage",
    "seaweedfs",
    "rustfs",
    "rclone",
    "generic",
]
_CLOUDS: Final[dict[str, S3Profile]] = {
    "amazonaws.com": "aws",
    "r2.cloudflarestorage.com": "r2",
    "backblazeb2.com": "b2",
    "storage.googleapis.com": "gcs",
    "wasabisys.com": "wasabi",
}
"""Host suffixes that tell which store answers; every other one is taken for MinIO."""
_S3_NEEDS: Final = ("s3_endpoint", "s3_bucket", "s3_access_key", "s3_secret_key")
"""All of these, or objects are files."""
_OF_THE_API: Final = ("event_stream", "external_processors", "s3_events_secret", "share_keys")
"""What these set is reached by the API, and in no other way."""
_LAST_PORT: Final = 65_535
_STALE_UPLOAD_EXPIRY: Final = {"minio": 24 * 3600.0, "rclone": 24 * 3600.0, "r2": 7 * 86_400.0}
"""Seconds after which a store deletes unfinished multipart uploads by itself, when nobody changed that."""


def _setting(topic: str, default: object, help_text: str, **constraints: Any) -> Any:
    return Field(default=default, description=help_text, json_schema_extra={"topic": topic}, **constraints)


_listen = partial(_setting, "Listening")
_identity = partial(_setting, "Identity")
_state = partial(_setting, "State")
_s3 = partial(_setting, "Object store")
_limit = partial(_setting, "Uploads")
_download = partial(_setting, "Files and downloads")
_direct = partial(_setting, "Direct uploads")
_path = partial(_setting, "Memory and parts")
_event = partial(_setting, "Events")
_process = partial(_setting, "Processing")
_run = partial(_setting, "Running")


class Settings(BaseSettings):
    """All settings of one gateway, valid and frozen. Sizes are bytes, durations are seconds.

    Constructed directly it takes keyword arguments only; `load_settings` reads the environment and the files.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
    )

    host: Text = _listen("127.0.0.1", "Address to listen on; 0.0.0.0 is every IPv4 interface.")
    port: Count = _listen(8080, "Port to listen on; 0 takes a free one.", ge=0, le=_LAST_PORT)
    public_url: WebUrl | None = _listen(
        None, "Address at which clients reach the gateway, without BASE_PATH; upload URLs begin with it."
    )
    public_aliases: Origins = _listen(
        (), "Further origins that clients know the gateway under: a concatenation may name uploads by them."
    )
    base_path: UrlPath = _listen("/files", "Path under which uploads are created and continued.")
    cors_origins: Origins = _listen(("*",), "Origins whose web pages may upload; * is every one.")
    cors_headers: HeaderNames = _listen((), "Request headers that web pages may send beside those of the protocols.")
    trusted_proxies: Networks = _listen(
        (),
        "Proxies whose Forwarded and X-Forwarded-* headers are believed, for upload URLs and, with AUTH=proxy, users.",
    )

    max_connections: Count | None = _listen(
        None,
        "Connections that one process serves at once, others are answered 503; without it 10000, or what the limit of"
        " open files allows.",
        ge=1,
    )
    keepalive_timeout: Duration = _listen(
        30.0, "A connection that is idle, or does not complete the headers of a request, is closed after this.", gt=0
    )

    auth: AuthModes = _identity(
        ("open",), "How clients prove who they are, any of them; open lets in whoever presents nothing."
    )
    jwt_issuers: JwtIssuers = _identity(
        (), "Issuers whose JWTs count, as a JSON list or TOML tables; see identity.md for the members."
    )
    jwt_issuers_file: File | None = _identity(None, "File that holds JWT_ISSUERS.")
    upload_token_keys: Secrets = _identity(
        (), "Secrets that sign upload tokens, at least 32 characters each; any of them counts, for rotation."
    )
    upload_token_keys_file: File | None = _identity(None, "File that holds UPLOAD_TOKEN_KEYS.")
    proxy_user_header: HeaderName = _identity(
        "X-Forwarded-User", "Field in which a proxy of TRUSTED_PROXIES names the user, for AUTH with proxy."
    )
    proxy_groups_header: HeaderName = _identity("X-Forwarded-Groups", "Field with the user's groups, by commas.")
    proxy_tenant_header: HeaderName | None = _identity(
        None, "Field in which the proxy names the tenant; without it everybody is of tenant default."
    )
    proxy_permissions: Permissions = _identity(
        tuple(sorted(USER)), "What users whom the proxy names may do with their own uploads."
    )
    proxy_admin_groups: Texts = _identity((), "Groups whose members have the permission admin too.")

    data_dir: Directory = _state(Path("data"), "Directory for what has no server of its own.")
    database_url: DatabaseUrl | None = _state(
        None, "PostgreSQL (or sqlite:///file); without it an SQLite file in DATA_DIR."
    )
    database_url_file: File | None = _state(None, "File that holds DATABASE_URL.")

    database_connections: Count = _state(
        10, "Most PostgreSQL connections of one process; one more answers HEADs, and one listens.", ge=1, le=1000
    )
    database_pooling: Literal["session", "transaction"] = _state(
        "session", "transaction when a pooler such as pgbouncer gives each transaction another connection."
    )

    s3_endpoint: ServerUrl | None = _s3(
        None, "S3 server as the gateway reaches it; without it and S3_BUCKET objects are files in DATA_DIR."
    )
    s3_public_endpoint: ServerUrl | None = _s3(
        None, "S3 server as browsers reach it, for signed URLs; S3_ENDPOINT when not set."
    )
    s3_region: Text = _s3("us-east-1", "Region that requests are signed for (R2: auto; MinIO takes any).")
    s3_bucket: Bucket | None = _s3(None, "Bucket that uploads are stored in; it must exist.")
    s3_prefix: KeyPrefix = _s3("", "Put before every object key; the gateway touches nothing outside.")
    s3_access_key: Secret | None = _s3(None, "Access key id; needs S3_SECRET_KEY.")
    s3_access_key_file: File | None = _s3(None, "File that holds S3_ACCESS_KEY.")
    s3_secret_key: Secret | None = _s3(None, "Secret access key.")
    s3_secret_key_file: File | None = _s3(None, "File that holds S3_SECRET_KEY.")
    s3_session_token: Secret | None = _s3(None, "Session token of temporary credentials.")
    s3_session_token_file: File | None = _s3(None, "File that holds S3_SESSION_TOKEN.")
    s3_profile: S3Profile | None = _s3(None, "What the store can do; without it told from the host name, else minio.")
    s3_stale_upload_expiry: OptionalDuration = _s3(
        None,
        "Age at which the store itself deletes unfinished multipart uploads (MINIO_API_STALE_UPLOADS_EXPIRY);"
        " without it that of the profile (minio: 24h). Uploads end an hour before.",
        gt=SWEEP_MARGIN,
    )
    s3_presign_access_key: Secret | None = _s3(
        None,
        "Access key id that signs the URLs that are handed out: needs GetObject for DOWNLOADS=redirect and PutObject"
        " for DIRECT, and nothing else; without it S3_ACCESS_KEY.",
    )
    s3_presign_access_key_file: File | None = _s3(None, "File that holds S3_PRESIGN_ACCESS_KEY.")
    s3_presign_secret_key: Secret | None = _s3(None, "Its secret access key.")
    s3_presign_secret_key_file: File | None = _s3(None, "File that holds S3_PRESIGN_SECRET_KEY.")
    object_key: KeyTemplate = _s3(
        "{id}", "Template of object keys, with {id} and optionally {tenant}, {date} and {filename}."
    )

    tenants_file: File | None = _limit(
        None, "TOML file with tenants, their buckets and limits (docs/tenants.md); without it everybody is one tenant."
    )
    max_size: OptionalSize = _limit(None, "Largest upload that is accepted; none is no limit.", gt=0)
    max_metadata: Size = _limit(16 * 1024, "Largest Upload-Metadata header that is accepted.", ge=1024, le=64 * 1024)
    upload_expiry: OptionalDuration = _limit(
        7 * 86_400.0,
        "Unfinished uploads are deleted after this long without a new byte; none keeps them.",
        gt=0,
    )
    ended_retention: OptionalDuration = _limit(
        90 * 86_400.0,
        "Uploads that were deleted, expired or failed are remembered this long, and are unknown afterwards; none"
        " remembers them for ever.",
        ge=86_400,
    )
    max_lifetime: OptionalDuration = _limit(
        None, "Unfinished uploads are deleted at this age, active or not; none is no limit.", gt=0
    )
    resume_by_fingerprint: Literal["on", "off"] = _limit(
        "off",
        "Whether a tus creation with the metadata key fingerprint is answered with the owner's unfinished upload of the"
        " same fingerprint and length.",
    )
    gone_status: GoneStatus = _limit(
        410, "Answer for an expired upload; tus-java-client and tus-android-client start anew only after 404."
    )
    idle_timeout: Duration = _limit(
        30.0, "A request that brings no byte, or a client that takes none of its answer, for this long is ended.", gt=0
    )
    min_rate: Rate = _limit(
        1024, "A request or a download slower than this, averaged over RATE_WINDOW, is ended; 0 allows any."
    )
    rate_window: Duration = _limit(60.0, "Time over which MIN_RATE is averaged.", gt=0)
    finish_wait: Duration = _limit(
        25.0, "How long the last request waits for the finished object; longer work goes on without it.", ge=0
    )

    api: Literal["on", "off"] | None = _download(
        None,
        "The JSON API at /api/v1, by which files are listed, downloaded and deleted by whoever reaches the gateway;"
        " without it on if HOST is a loopback address.",
    )
    downloads: Literal["stream", "redirect", "off"] = _download(
        "stream",
        "How files are handed out: through the gateway, by a redirect to a signed URL of S3 (files in DATA_DIR are"
        " streamed all the same), or not at all.",
    )
    download_url: WebUrl | None = _download(
        None,
        "Address of the gateway that is for downloads only: a host of its own keeps what was uploaded away from your"
        " other pages.",
    )
    origin_tokens: Secrets = _download(
        (),
        "Secrets of at least 32 characters by which a CDN shows that a download came through it (X-Origin-Token); any"
        " of them counts, for rotation. Needs DOWNLOAD_URL.",
    )
    origin_tokens_file: File | None = _download(None, "File that holds ORIGIN_TOKENS.")
    download_cache_control: Text = _download(
        "private, no-cache", "Cache-Control of downloads; behind a CDN see docs/api.md. Share links have their own."
    )
    max_downloads: Count = _download(
        256, "Files that one process hands out at once, others are answered 503.", ge=1, le=10_000
    )

    direct: Literal["on", "off"] = _direct(
        "off", "Whether clients may send parts to S3 themselves, by signed URLs; needs the API, and S3."
    )
    s3_events_secret: Secret | None = _direct(
        None, "Secret that senders of S3 events show at /api/v1/s3-events; without it events are not taken."
    )
    s3_events_secret_file: File | None = _direct(None, "File that holds S3_EVENTS_SECRET.")
    s3_events_queue: WebUrl | None = _direct(
        None, "URL of the queue of Amazon SQS that the bucket sends its events to; read with the keys of the bucket."
    )
    direct_url_ttl: Duration = _direct(
        900.0, "How long a signed URL takes a part; clients ask for new ones.", ge=10, le=43_200
    )

    share_keys: Secrets = _download(
        (),
        "Secrets that sign share links, at least 32 characters each: the first one new links, any of them counts;"
        " without one there are no share links.",
    )
    share_keys_file: File | None = _download(None, "File that holds SHARE_KEYS.")
    share_session: Duration = _download(
        6 * 3600.0,
        "How long a download by a share link may be continued, or parts of it repeated, without being counted again.",
        ge=1,
        le=30 * 86_400,
    )

    access_retention: OptionalDuration = _download(
        90 * 86_400.0,
        "Who read which file, when and from where is written down, and forgotten after this; none writes nothing.",
        gt=0,
    )

    file_expiry: OptionalDuration = _download(
        None,
        "Finished files are deleted after this long, unless expires_at of a file says otherwise; none keeps them.",
        gt=0,
    )
    file_digest: Literal["sha256", "none"] = _download(
        "none", "Digest of finished files that is computed in the background; each is read once for it."
    )
    dedup: Literal["on", "off"] = _download(
        "off",
        "Equal files of a tenant share one object, found by their SHA-256, for which each is read once; see"
        " docs/dedup.md.",
    )
    instant_upload: Literal["on", "off"] = _download(
        "off",
        "Whoever proves to have a file of which the tenant has an equal one need not send it; needs DEDUP and"
        " INSTANT_KEYS.",
    )
    instant_keys: Secrets = _download(
        (),
        "Secrets that make the challenges of instant uploads, at least 32 characters each, the same ones on all"
        " replicas: the first one makes new challenges, any of them counts.",
    )
    instant_keys_file: File | None = _download(None, "File that holds INSTANT_KEYS.")

    processors: Texts = _process(
        (), "What is done with finished files, by the names of processors; see docs/processing.md."
    )
    external_processors: ExternalProcessors = _process(
        (),
        "Processors that are programs of yours and get their jobs from the API: name=TYPES, with blanks between types,"
        " such as ocr=image/* application/pdf.",
    )
    publish_when_clean: Texts = _process(
        (), "Processors that have to be done with a file, and have nothing against it, before anybody reads it."
    )
    worker: Literal["on", "off"] = _process(
        "on", "Whether a gateway does jobs of PROCESSORS itself; with off, `tusgate worker` does."
    )
    worker_jobs: Count = _process(2, "Jobs that one process does at once.", ge=1, le=64)
    scratch_dir: Directory | None = _process(
        None, "Where workers copy files to while processors look at them; without it the directory for temporary files."
    )

    part_size: Size = _path(8 * MIB, "Size of S3 parts; larger files get larger parts.", ge=64 * 1024, le=5120 * MIB)
    parts_in_flight: Count = _path(4, "Parts of one upload that are sent to the store at once.", ge=1, le=64)
    budget: Size = _path(256 * MIB, "Bytes of all uploads that one process may hold in memory.", gt=0)
    piece_inline_max: Size = _path(
        64 * 1024,
        "Leftovers of a request up to this size are kept in the database, not in the store.",
        le=MIB,
    )
    warm_cell_ttl: Duration = _path(
        5.0, "How long an unfilled part stays in memory for the next request of its upload.", ge=0
    )

    sinks: Sinks = _event(
        (), "Who is told what happens to uploads: a list, best as [[sinks]] in TOML; see docs/events.md."
    )
    sink_allow: HostsAndPorts = _event(
        (), "Receivers of webhooks, and hooks, with private addresses or unusual ports, exactly as in their URLs."
    )
    hooks: HookList = _event(
        (),
        "Who is asked before uploads are made, published or deleted: a list, best as [[hooks]] in TOML;"
        " see docs/hooks.md.",
    )
    event_retention: Duration = _event(
        7 * 86_400.0, "Events are kept for this long after their delivery, to be replayed.", gt=0
    )
    dead_event_retention: Duration = _event(
        30 * 86_400.0, "Events that could not be delivered are kept for this long after they were given up.", gt=0
    )
    progress_interval: Duration = _event(
        5.0, "Least time between two upload.progress events of an upload, for those who ask for them.", ge=0
    )
    event_stream: Literal["off", "on", "progress"] = _event(
        "off", "Whether clients of the API may follow events as they happen; progress: upload.progress, too."
    )
    max_listeners: Count = _event(
        1000, "Clients that follow events of one process at once, others are answered 503.", ge=1, le=10_000
    )

    clamd: Place = _process(
        "/run/clamav/clamd.ctl", "Where the clamd listens that virus-scan asks: a socket, or host:port."
    )
    processor_environment: Texts = _process(
        (), "Names of environment variables that processors are to see, too; by themselves they see none of ours."
    )
    workers: Count = _run(1, "Processes that share the port; BUDGET is for each.", ge=1, le=256)
    metrics: HostAndPort | None = _run(
        None,
        "Address of a listener of its own for /metrics (docs/metrics.md); of several WORKERS each has the next port."
        " Without it there are no metrics.",
    )
    drain_timeout: Duration = _run(20.0, "How long requests may take to save their bytes at SIGTERM.", gt=0)
    log_level: Literal["debug", "info", "warning", "error"] = _run("info", "Least severe message that is logged.")
    log_format: Literal["json", "console"] | None = _run(
        None, "Form of log lines; without it console on a terminal and in development, else json."
    )
    environment: Literal["production", "development"] = _run("production", "What this gateway is for.")
    crash: CrashPlace | None = _run(
        None, "Place at which the process kills itself, for tests of recovery; never where ENVIRONMENT is production."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Keep the constructor free of surprises; `load_settings` ranks the sources."""
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _read_secret_files(cls, values: dict[str, object]) -> dict[str, object]:
        """Fill each setting whose `*_file` variant is given. Raises SettingsError for unreadable files."""
        read = dict(values)
        for name in SECRET_FILES:
            path = values.get(f"{name}_file")
            if path is not None:
                read[name] = _secret_in(f"{name}_file", Path(str(path)).expanduser())
        return read

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        """Raise SettingsError when settings contradict each other."""
        self._check_store()
        self._check_memory()
        self._check_lifetimes()
        self._check_identity()
        self._check_sinks()
        self._check_direct()
        self._check_api()
        if self.origin_tokens and self.download_url is None:
            raise wrong("download_url", f"the address of the CDN, because {ENV_PREFIX}ORIGIN_TOKENS is set")
        self._check_processors()
        if self.workers > 1 and self.sqlite_path is not None:
            postgres = f"1 with SQLite; for more set {ENV_PREFIX}DATABASE_URL to a PostgreSQL server"
            raise wrong("workers", postgres, self.workers)
        if f"{self.base_path}/".startswith(f"{API_PATH}/"):
            raise wrong("base_path", f"a path that is not below {API_PATH}", self.base_path)
        if f"{self.base_path}/".startswith(f"{SHARES_PATH}/"):
            raise wrong("base_path", f"a path that is not below {SHARES_PATH}", self.base_path)
        self._check_metrics()
        if self.crash is not None and self.environment == "production":
            raise wrong("crash", f"no value, because {ENV_PREFIX}ENVIRONMENT is production", self.crash)
        return self

    def _check_metrics(self) -> None:
        """Raise SettingsError when a process could not listen for metrics."""
        if self.metrics is None or not self.metrics[1]:
            return
        first, last = self.metrics[1], self.metrics[1] + self.workers - 1
        if last > _LAST_PORT:
            raise wrong(
                "metrics", f"a port of at most {_LAST_PORT - self.workers + 1}, since each worker has one", first
            )
        if first <= self.port <= last:
            raise wrong("metrics", f"other ports than that of uploads, {self.port}", first)

    def _check_store(self) -> None:
        self._check_s3_is_whole()
        if self.s3_bucket is not None and self.part_size < S3_MIN_PART_SIZE:
            raise wrong("part_size", f"at least {show_size(S3_MIN_PART_SIZE)} with S3", show_size(self.part_size))

    def _check_s3_is_whole(self) -> None:
        missing = [name for name in _S3_NEEDS if getattr(self, name) is None]
        given = [name for name in _S3_NEEDS if name not in missing]
        if missing and given:
            raise wrong(missing[0], f"a value, because {ENV_PREFIX}{given[0].upper()} is set")

    def _check_identity(self) -> None:
        """Refuse what would let in more people than was meant."""
        for mode, name in (("jwt", "jwt_issuers"), ("upload-token", "upload_token_keys")):
            if mode in self.auth and not getattr(self, name):
                raise wrong(name, f"a value, because {ENV_PREFIX}AUTH has {mode}")
            if mode not in self.auth and getattr(self, name):
                raise wrong("auth", f"{mode} in it, because {ENV_PREFIX}{name.upper()} is set", ",".join(self.auth))
        if "proxy" not in self.auth:
            return
        if not self.trusted_proxies:
            raise wrong("trusted_proxies", f"the addresses of the proxy, because {ENV_PREFIX}AUTH has proxy")
        if "cors_origins" in self.model_fields_set and "*" in self.cors_origins:
            raise wrong("cors_origins", f"a list of origins, because {ENV_PREFIX}AUTH has proxy", "*")

    def _check_processors(self) -> None:
        named = {*self.processors, *(name for name, _ in self.external_processors)}
        for name in self.publish_when_clean:
            if name not in named:
                raise wrong("publish_when_clean", f"names that {ENV_PREFIX}PROCESSORS has, too", name)
        if len(named) < len(self.processors) + len(self.external_processors):
            raise wrong("external_processors", f"names that {ENV_PREFIX}PROCESSORS does not have")
        if self.external_processors and not {"token", "jwt", "proxy"} & {*self.auth}:
            raise wrong(
                "auth",
                f"token, jwt or proxy in it, because {ENV_PREFIX}EXTERNAL_PROCESSORS is set: only who is known by one"
                " of these may have the permission process",
                ",".join(self.auth),
            )

    def _check_direct(self) -> None:
        keys = ("s3_presign_access_key", "s3_presign_secret_key")
        if (self.s3_presign_access_key is None) != (self.s3_presign_secret_key is None):
            missing, given = keys if self.s3_presign_access_key is None else keys[::-1]
            raise wrong(missing, f"a value, because {ENV_PREFIX}{given.upper()} is set")
        if self.direct == "on" and self.s3_bucket is None:
            raise wrong("direct", f"off, because there is no {ENV_PREFIX}S3_BUCKET", "on")
        if self.s3_events_queue is not None and self.s3_bucket is None:
            raise wrong("s3_events_queue", f"nothing, because there is no {ENV_PREFIX}S3_BUCKET", self.s3_events_queue)
        if self.direct == "on" and not self.offers_api:
            raise wrong("direct", f"off, or {ENV_PREFIX}API=on", "on")

    def _check_api(self) -> None:
        """Raise SettingsError when something was to be reached by an API that is not there."""
        for name in _OF_THE_API:
            if not self.offers_api and getattr(self, name) != Settings.model_fields[name].default:
                raise wrong("api", f"on, because {ENV_PREFIX}{name.upper()} is set", "off")

    def _check_memory(self) -> None:
        if self.budget < 2 * self.part_size:
            least = f"at least twice {ENV_PREFIX}PART_SIZE ({show_size(2 * self.part_size)})"
            raise wrong("budget", least, show_size(self.budget))

    def _check_lifetimes(self) -> None:
        """Refuse a promise that the store would break; defaults are shortened instead (`lifetime_limit`)."""
        limit = self._sweep_limit
        for name in ("upload_expiry", "max_lifetime"):
            value = getattr(self, name)
            if limit is not None and name in self.model_fields_set and value is not None and value > limit:
                raise wrong(
                    name,
                    f"at most {show_duration(limit)}, because the store deletes unfinished uploads"
                    f" {show_duration(SWEEP_MARGIN)} later (see {ENV_PREFIX}S3_STALE_UPLOAD_EXPIRY)",
                    show_duration(value),
                )

    def _check_sinks(self) -> None:
        """Refuse secrets that cannot be read, and receivers that no request could ever be sent to."""
        for sink in self.sinks:
            sink.check()
        for setting, items in (("sinks", self.sinks), ("hooks", self.hooks)):
            for item in items:
                if isinstance(item, Reached):
                    self._check_receiver(setting, item)

    def _check_receiver(self, setting: str, receiver: Reached) -> None:
        receiver.secrets()
        host, port = receiver.host_and_port
        if (host, port) not in self.sink_allow and (
            port not in USUAL_PORTS or (is_address(host) and not is_public(host))
        ):
            raise wrong(
                setting,
                f"of {receiver.name} a public host on port 80 or 443, or {host}:{port} in {ENV_PREFIX}SINK_ALLOW",
            )

    @property
    def event_source(self) -> str:
        """Who tells events: where uploads are created, as far as that is set."""
        return (self.public_url or "") + self.base_path

    @property
    def page_origins(self) -> tuple[str, ...]:
        """CORS_ORIGINS; by default none but our own where a proxy knows users by their cookies.

        Else any page could act in the name of whoever visits it.
        """
        return () if "proxy" in self.auth and "*" in self.cors_origins else self.cors_origins

    @property
    def sqlite_path(self) -> Path | None:
        """The SQLite file to use, or None when the database is PostgreSQL."""
        if self.database_url is None:
            return self.data_dir / "tusgate.sqlite3"
        parts = urlsplit(self.database_url.get_secret_value())
        # As SQLAlchemy writes it: sqlite:///relative/path and sqlite:////absolute/path.
        return Path(parts.path.removeprefix("/")) if parts.scheme == "sqlite" else None

    @property
    def store_dir(self) -> Path | None:
        """The root of the directory store (finished uploads are in `objects/` below it), or None with S3."""
        return self.data_dir if self.s3_bucket is None else None

    @property
    def profile(self) -> S3Profile:
        """The S3 profile in force: the configured one, or the one that the endpoint's host name tells."""
        return self.s3_profile or profile_at(self.s3_endpoint)

    @property
    def _sweep_limit(self) -> float | None:
        if self.s3_bucket is None:
            return None
        stale = self.s3_stale_upload_expiry or _STALE_UPLOAD_EXPIRY.get(self.profile)
        return None if stale is None else stale - SWEEP_MARGIN

    @property
    def lifetime_limit(self) -> float | None:
        """Seconds after creation at which an unfinished upload must end, or None for no such limit.

        The least of MAX_LIFETIME and what the store allows: MinIO counts from the creation of the multipart
        upload and does not care whether parts still arrive.
        """
        return min((age for age in (self.max_lifetime, self._sweep_limit) if age is not None), default=None)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def offers_api(self) -> bool:
        """Whether the API of files is there: as set, else unless anybody may come from elsewhere to list all files."""
        return "open" not in self.auth or self.is_loopback if self.api is None else self.api == "on"

    @property
    def offers_shares(self) -> bool:
        """Whether there are share links."""
        return bool(self.share_keys) and self.downloads != "off"

    @property
    def endpoint_url(self) -> str:
        """Where uploads are created, as this machine reaches it: PUBLIC_URL or HOST:PORT, with BASE_PATH."""
        return self._own_url + self.base_path

    @property
    def direct_url(self) -> str:
        """Where direct uploads begin, as this machine reaches it."""
        return f"{self._own_url}{API_PATH}/uploads"

    @property
    def _own_url(self) -> str:
        if self.public_url is not None:
            return self.public_url
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.port}"


def _secret_in(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text"
        raise wrong(name, "a readable file", f"{path} ({reason})") from None


def profile_at(endpoint: str | None) -> S3Profile:
    """Return the profile that the host name of an S3 server tells."""
    host = urlsplit(endpoint or "").hostname or ""
    for suffix, profile in _CLOUDS.items():
        if host == suffix or host.endswith(f".{suffix}"):
            return profile
    return "minio"


SECRET_FILES: Final = tuple(
    name.removesuffix("_file")
    for name in Settings.model_fields
    if name.endswith("_file") and name.removesuffix("_file") in Settings.model_fields
)
"""Settings that may be given by a file."""


def wrong(name: str, expected: str, found: object = None) -> SettingsError:
    """Return the error that says what the setting `name` should have been."""
    got = "" if found is None else f", got {found}"
    return SettingsError(f"{ENV_PREFIX}{name.upper()}: expected {expected}{got}")


def kind_of(name: str) -> Kind:
    """Return how the setting `name` is written."""
    field = Settings.model_fields[name]
    for item in _metadata(field.annotation, field.metadata):
        if isinstance(item, Kind):
            return item
    choices = [str(choice) for choice in _choices(field.annotation)]
    return Kind("|".join(choices), "one of " + ", ".join(choices))


def _metadata(annotation: Any, outer: list[Any]) -> list[Any]:
    members = getattr(annotation, "__args__", ())
    nested = [item for member in members for item in _metadata(member, [])]
    return [*outer, *getattr(annotation, "__metadata__", ()), *nested]


def _choices(annotation: Any) -> list[object]:
    members = getattr(annotation, "__args__", ())
    found = [choice for member in members for choice in (_choices(member) or [member])]
    return [choice for choice in found if choice is not type(None)]


def is_secret(name: str) -> bool:
    """Return whether values of the setting `name` must not be shown."""
    return name in SECRET_FILES


def topic_of(name: str) -> str:
    """Return the heading that the setting `name` belongs under."""
    extra = Settings.model_fields[name].json_schema_extra
    return str(extra["topic"]) if isinstance(extra, dict) else ""


def help_of(name: str) -> str:
    """Return the sentence that explains the setting `name`."""
    return Settings.model_fields[name].description or ""


def shown(name: str, value: object) -> str:
    """Return `value` of the setting `name` as a person would write it, secrets hidden."""
    return "none" if value is None else kind_of(name).show(value)
