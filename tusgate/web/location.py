"""Under which address clients reach us: the start of every `Location` and our own origin.

From, in this order: the configured public URL; what a trusted proxy forwarded; the Host header. An address that the
client alone controls can only mislead that client, so Host is good enough when nothing else is configured.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urljoin, urlsplit

from tusgate.core.errors import InvalidRequest, UnknownHost, UploadNotFound
from tusgate.core.model import UPLOAD_ID, UploadId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Network, IPv6Network

    from aiohttp import web

    from tusgate.web.config import WebConfig

_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_SCHEMES: Final = ("http", "https")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}


class TrustedProxies:
    """The proxies whose word about a request counts: by the address that the connection comes from."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self._networks = tuple(networks)

    def sent(self, request: web.Request) -> bool:
        """Whether `request` comes straight from one of them; never over a Unix socket."""
        if not self._networks or not request.remote:
            return False
        peer = ip_address(request.remote.partition("%")[0])
        mapped = getattr(peer, "ipv4_mapped", None) or peer
        return any(mapped in network for network in self._networks)

    def client_of(self, request: web.Request) -> str | None:
        """Return the address that `request` comes from: the last one that no trusted proxy has; None if unknown.

        What stands in front of that may be anybody's word.
        """
        if not self.sent(request):
            return request.remote
        for text in reversed(_passed_on(request)):
            try:
                address = ip_address(text)
            except ValueError:
                break
            if not any(address in network for network in self._networks):
                return str(address)
        return request.remote


class PublicAddress:
    """Builds absolute URLs as the client of a request knows them (aiotus fails on relative ones)."""

    def __init__(self, config: WebConfig) -> None:
        self._public_url = config.public_url
        self._base_path = config.base_path
        self._proxies = TrustedProxies(config.trusted_proxies)
        self._aliases = config.public_aliases

    def upload_url(self, request: web.Request, upload_id: str) -> str:
        """Return the absolute URL of an upload. Raises InvalidRequest when the Host header is malformed."""
        return f"{self._root(request)}{self._base_path}/{upload_id}"

    def upload_id(self, request: web.Request, url: str) -> UploadId:
        """Return the id in the URL of an upload, absolute or relative, as a client may write it (CAT-12).

        It must lead to us, under the address of this request or another one of ours, and is compared by its path: old
        URLs may have been made under any of our names.

        Raises:
            InvalidRequest: it leads elsewhere.
        """
        home = f"{self._root(request)}{self._base_path}/"
        try:
            parts = urlsplit(urljoin(home, url))
            origin = f"{parts.scheme}://{parts.netloc.lower().removesuffix(_DEFAULT_PORTS.get(parts.scheme, ' '))}"
        except ValueError:
            raise _not_ours() from None
        path, own_path = unquote(parts.path), urlsplit(home).path
        tail = path.removeprefix(own_path)
        if origin not in {self.origin(request), *self._aliases} or parts.query or tail == path:
            raise _not_ours()
        if UPLOAD_ID.fullmatch(tail) is None:
            raise UploadNotFound
        return UploadId(tail)

    def url(self, request: web.Request, path: str) -> str:
        """Return the absolute URL of `path`, which begins with a slash. Raises InvalidRequest like `upload_url`."""
        return self._root(request) + path

    def origin(self, request: web.Request) -> str:
        """Return our own origin as a browser writes it. Raises InvalidRequest like `upload_url`."""
        parts = urlsplit(self._root(request))
        return f"{parts.scheme}://{parts.netloc}"

    def _root(self, request: web.Request) -> str:
        return self._public_url if self._public_url is not None else self._asked(request)

    def host_asked(self, request: web.Request) -> str | None:
        """Return the name or address that `request` was sent to, whatever our public one is.

        Raises InvalidRequest like `upload_url`.
        """
        return urlsplit(self._asked(request)).hostname

    def _asked(self, request: web.Request) -> str:
        scheme, authority = request.scheme, request.headers.get("Host")
        field = "Host"
        if self._proxies.sent(request):
            forwarded = _forwarded(request)
            scheme = forwarded.get("proto", scheme).lower()
            if "host" in forwarded:
                field, authority = "X-Forwarded-Host", forwarded["host"]
        if authority is None:
            authority = _local_authority(request)
        if scheme not in _SCHEMES:
            raise InvalidRequest("X-Forwarded-Proto", "http or https")
        if _AUTHORITY.fullmatch(authority) is None:
            raise InvalidRequest(field, "a host name or address, and a port")
        return f"{scheme}://{authority.lower().removesuffix(_DEFAULT_PORTS[scheme])}"


class OwnNames:
    """Our host names, for a gateway that is safe only because others cannot reach it.

    A web page whose name leads to 127.0.0.1 all of a sudden (DNS rebinding) is of one origin with us, as its browser
    sees it, and could read and delete everything. What gives it away is its name in Host. An address is no name, and
    nobody else can have `localhost`.
    """

    def __init__(self, config: WebConfig) -> None:
        urls = (config.public_url, config.download_url, *config.public_aliases)
        self._names = frozenset(urlsplit(url).hostname for url in urls if url is not None)
        self._is_guarded = config.guards_names

    def check(self, request: web.Request) -> None:
        """Raise UnknownHost when `request` is for a name that is none of ours."""
        authority = request.headers.get("Host")
        if not self._is_guarded or authority is None:
            return
        try:
            name = (urlsplit(f"//{authority}").hostname or "").rstrip(".")
        except ValueError:
            raise UnknownHost from None
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return
        try:
            ip_address(name)
        except ValueError:
            raise UnknownHost from None


def _not_ours() -> InvalidRequest:
    return InvalidRequest("Upload-Concat", "URLs of uploads of this server")


def _forwarded(request: web.Request) -> dict[str, str]:
    """Return `proto` and `host` as the neighbouring proxy gave them: the last element, all others may be forged."""
    if "Forwarded" in request.headers:
        last = request.forwarded[-1] if request.forwarded else {}
        return {name: last[name] for name in ("proto", "host") if name in last}
    found: dict[str, str] = {}
    for name in ("proto", "host"):
        values = request.headers.getall(f"X-Forwarded-{name.title()}", [])
        if values and (last_value := values[-1].rpartition(",")[2].strip()):
            found[name] = last_value
    return found


def _passed_on(request: web.Request) -> list[str]:
    """Return the addresses that a request is said to have passed, the first one being its client's."""
    if "Forwarded" in request.headers:
        named = [part.get("for", "") for part in request.forwarded]
    else:
        named = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
    return [_bare(name.strip().strip('"')) for name in named]


def _bare(name: str) -> str:
    """Return an address without its port and brackets."""
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0] if name.count(":") == 1 else name


def _local_authority(request: web.Request) -> str:
    """Return the address that the connection came in on: HTTP/1.0 requests may lack a Host."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if not isinstance(name, tuple):
        raise InvalidRequest("Host", "the field once")
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
