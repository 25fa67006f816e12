"""What the web room can be told; `app.py` builds it from the settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

KIB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class WebConfig:
    """Settings of the HTTP side, validated by whoever builds it.

    Attributes:
        base_path: where uploads are created, for example `/files`; no slash at the end.
        is_open: nobody is asked for credentials; or only those who bring some.
        guards_names: host names that are none of ours are refused by the API; addresses and `localhost` never are.
        public_url: scheme and authority (and path prefix) that clients reach us under; None = taken from the
            request. No slash at the end.
        public_aliases: further origins that clients know us under; URLs of uploads may begin with them.
        cors_origins: origins whose pages may upload, as browsers write them, or `*` for any (without credentials).
            Our own origin is always allowed.
        cors_headers: request headers that pages may send beside those of the protocols.
        trusted_proxies: networks whose `Forwarded` and `X-Forwarded-*` headers are believed.
        max_metadata: longest Upload-Metadata header in bytes.
        expires: whether unfinished uploads expire (announces the expiration extension).
        idle_timeout: seconds without a byte after which a body that we wait for is ended.
        min_rate: bytes per second that a client must keep up, averaged over `rate_window` seconds of waiting for it.
        downloads: `stream` the bytes of files ourselves, `redirect` to a signed URL of the store where it has such,
            or `off`.
        download_url: scheme and authority (and path prefix) under which files are downloaded, and nowhere else; None =
            where everything else is. No slash at the end.
        origin_tokens: one of them has to come with each request that reaches us under `download_url`; none: nobody is
            asked.
        download_cache_control: Cache-Control of downloads.
        share_keys: sign share links, the first one new ones; none: there are no share links.
        share_session: seconds for which a counted download may be continued.
        gone_status: 410, or 404 for clients that start over on 404 only (tus-java-client, tus-android-client).
    """

    base_path: str = "/files"
    is_open: bool = True
    guards_names: bool = False
    public_url: str | None = None
    public_aliases: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ("*",)
    cors_headers: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    max_metadata: int = 16 * KIB
    expires: bool = True
    idle_timeout: float = 30.0
    min_rate: int = KIB
    rate_window: float = 60.0
    gone_status: int = 410
    downloads: Literal["stream", "redirect", "off"] = "stream"
    download_url: str | None = None
    origin_tokens: tuple[str, ...] = field(default=(), repr=False)
    download_cache_control: str = "private, no-cache"
    share_keys: tuple[str, ...] = field(default=(), repr=False)
    share_session: float = 6 * 3600.0
