"""What a share link opens: a file, without a login.

Whatever is wrong with a link, it is answered as one that never was. One that is good may ask for a password: by a page
where a browser is at the other end, else by HTTP's own way (`curl -u :password`).

A download counts when its first bytes are about to leave: no HEAD, no 304, nothing that the store failed to give. The
answer carries a session in a cookie, and requests that bring it back (further ranges, a download that is continued, a
video that is wound back) are not counted again. Clients without cookies are counted by the request; else a limit would
be none.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import time
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from tusgate.core.audit import How
from tusgate.core.errors import InvalidRequest, TusgateError, UnsupportedMediaType, UnsupportedMethod, UploadNotFound
from tusgate.core.sharing import Proven, ShareKeys
from tusgate.web.api.content import NO_FIELDS, Delivery
from tusgate.web.body import BodyWatch, leave_expect_to_the_body, small_body
from tusgate.web.connections import refuse_surplus
from tusgate.web.errors import problem_of
from tusgate.web.headers import refuse_oversize
from tusgate.web.location import PublicAddress, TrustedProxies
from tusgate.web.presentation import presentation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tusgate.core.audit import NewAccess
    from tusgate.core.model import Upload
    from tusgate.core.sharing import Share, ShareId
    from tusgate.service.audit import Audit
    from tusgate.service.files import Files
    from tusgate.service.sharing import Sharing
    from tusgate.web.config import WebConfig

SHARED: Final = "/s"
"""Links begin with it."""
COOKIE: Final = "tusgate_share"
_METHODS: Final = ("GET", "HEAD", "POST")
_LARGEST_FORM: Final = 4096
_FORM: Final = "application/x-www-form-urlencoded"
_CACHE_CONTROL: Final = "private, no-cache"
"""Whatever the settings say of other downloads: a link may end, be limited, or have a password."""
_BASIC: Final = 'Basic realm="shared file", charset="UTF-8"'
_BY_PAGE: Final = 'Form realm="shared file"'
"""A 401 has to name a scheme (RFC 9110, 15.5.2); of one that they do not know browsers show the page."""


class SharedFiles:
    """The public side of share links.

    Args:
        config: of the web room; it has `share_keys`.
        sharing: the service.
        files: for their bytes.
        audit: counts downloads, and writes down who has them.
        now: seconds since 1970.
    """

    def __init__(
        self, config: WebConfig, sharing: Sharing, files: Files, audit: Audit, now: Callable[[], float] = time.time
    ) -> None:
        self._sharing = sharing
        self._audit = audit
        self._proxies = TrustedProxies(config.trusted_proxies)
        self._keys = ShareKeys(config.share_keys)
        self._session = config.share_session
        self._delivery = Delivery(config, files)
        self._address = PublicAddress(config)
        self._watch = BodyWatch(config.idle_timeout, config.min_rate, config.rate_window)
        self._now = now
        self._page = _Page()

    def add_routes(self, app: web.Application) -> None:
        """Register every method on all links."""
        app.router.add_route("*", SHARED + "/{address}", self.handle, expect_handler=leave_expect_to_the_body)

        async def stop_watch(_app: web.Application) -> None:
            self._watch.close()

        app.on_cleanup.append(stop_watch)

    def url(self, request: web.Request, share_id: ShareId) -> str:
        """Return the address of a link."""
        url = self._delivery.url(request, f"{SHARED}/{self._keys.address(share_id)}")
        assert url is not None  # where downloads are off there are no share links
        return url

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        refuse_surplus(request)
        refuse_oversize(request.headers)
        if request.method not in _METHODS:
            raise UnsupportedMethod(request.method, _METHODS)
        elsewhere = self._delivery.elsewhere(request)
        if elsewhere is not None:
            return elsewhere
        share_id = self._keys.share_of(request.match_info["address"])
        if share_id is None:
            raise UploadNotFound
        share, upload = await self._sharing.find(share_id)
        proven = self._keys.proven(request.cookies.get(COOKIE, ""), share_id, self._now())
        if share.is_used_up and proven is not Proven.DOWNLOAD:
            raise UploadNotFound
        try:
            if request.method == "POST":
                return await self._take_password(request, share)
            if share.password is not None and proven is None and not await self._has_password(request, share):
                return self._ask(request, wrong="Authorization" in request.headers)
        except TusgateError as error:
            return self._refuse(request, error)
        presentation = presentation_of(
            upload, inline=request.query.get("disposition") == "inline", cache_control=_CACHE_CONTROL
        )
        return await self._delivery.answer(request, upload, presentation, _Visit(self, request, share, upload, proven))

    async def _has_password(self, request: web.Request, share: Share) -> bool:
        password = _basic_password(request)
        return password is not None and await self._sharing.is_right(share, password)

    async def _take_password(self, request: web.Request, share: Share) -> web.Response:
        """Answer the form. The download begins by the page's own doing: a redirect might lead to the store's host.

        Browsers count that as a part of sending the form, which the page may do to us only.
        """
        if request.content_type != _FORM:
            raise UnsupportedMediaType(f"Content-Type: expected {_FORM}")
        form = parse_qs((await small_body(request, self._watch, _LARGEST_FORM)).decode("utf-8", "replace"))
        password = form.get("password", [""])[0]
        if share.password is not None and not await self._sharing.is_right(share, password):
            return self._ask(request, wrong=True)
        return self._page.opened(self.session(request, share, Proven.KNOWS))

    def session(self, request: web.Request, share: Share, proven: Proven) -> dict[str, str]:
        """Return the field that gives the client a session."""
        seconds = int(self._session)
        value = self._keys.session(share.id, proven, self._now() + seconds)
        is_safe = urlsplit(self._address.origin(request)).scheme == "https"
        path = urlsplit(self.url(request, share.id)).path
        attributes = f"Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax" + ("; Secure" if is_safe else "")
        return {"Set-Cookie": f"{COOKIE}={value}; {attributes}"}

    async def begin(
        self, request: web.Request, share: Share, upload: Upload, part: tuple[int, int] | None, *, counts: bool
    ) -> NewAccess | None:
        """Write down a download by a link. Raises UploadNotFound when it `counts` and the link is good for no more."""
        return await self._audit.begin(
            upload,
            reader="",
            proof=f"share:{share.id}",
            how=How.REDIRECT if part is None else How.SHARE,
            client=self._proxies.client_of(request),
            part=part,
            is_over=part is None,
            counts=share if counts else None,
        )

    def end(self, begun: NewAccess | None, sent: int) -> None:
        """Have it written down how a download ended."""
        self._audit.end(begun, sent)

    def _ask(self, request: web.Request, *, wrong: bool) -> web.Response:
        if _is_browser(request):
            return self._page.question(
                401, "That was not the password." if wrong else "", {"WWW-Authenticate": _BY_PAGE}
            )
        text = "password_needed: the link asks for a password: try again with HTTP Basic and any user name\n"
        headers = {"WWW-Authenticate": _BASIC, "Cache-Control": "no-store"}
        return web.Response(status=401, text=text if request.method != "HEAD" else None, headers=headers)

    def _refuse(self, request: web.Request, error: TusgateError) -> web.Response:
        """Return a page where a person waits; others get what everybody gets."""
        problem = problem_of(error)
        if not _is_browser(request) or problem.close:
            raise error
        return self._page.question(problem.status, html.escape(str(error)), problem.headers)


class _Visit:
    """A download by a link, which counts unless it goes on with one that was counted."""

    def __init__(
        self, public: SharedFiles, request: web.Request, share: Share, upload: Upload, proven: Proven | None
    ) -> None:
        self._public = public
        self._request = request
        self._share = share
        self._upload = upload
        self._counts = proven is not Proven.DOWNLOAD
        self._begun: NewAccess | None = None

    async def begin(self, part: tuple[int, int] | None) -> Mapping[str, str]:
        """Count and write down. Raises UploadNotFound when others were faster."""
        public, share = self._public, self._share
        self._begun = await public.begin(self._request, share, self._upload, part, counts=self._counts)
        return public.session(self._request, share, Proven.DOWNLOAD) if self._counts else NO_FIELDS

    def end(self, sent: int) -> None:
        """Have it written down."""
        self._public.end(self._begun, sent)


class _Page:
    """The page that asks for a password. No script, nothing from elsewhere, nothing about the file."""

    def __init__(self) -> None:
        package = resources.files(__package__)
        self._template = Template(package.joinpath("share.html").read_text("utf-8"))
        self._style = package.joinpath("reference.css").read_text("utf-8")
        digest = base64.b64encode(hashlib.sha256(self._style.encode()).digest()).decode()
        self._headers = {
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{digest}'; form-action 'self'; base-uri 'none';"
                " frame-ancestors 'none'"
            ),
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }

    def question(self, status: int, remark: str, headers: Mapping[str, str]) -> web.Response:
        """Return the form."""
        form = (
            f'<p role="alert">{remark}</p><form method="post">'
            '<label>Password <input type="password" name="password" required autofocus maxlength="128"'
            ' autocomplete="off"></label> <button>Download</button></form>'
        )
        return self._render(status, form, "", headers)

    def opened(self, headers: Mapping[str, str]) -> web.Response:
        """Return the page after the right password, from which the download begins."""
        refresh = '<meta http-equiv="refresh" content="0">'
        return self._render(200, '<p>The download begins. <a href="">Begin it again</a></p>', refresh, headers)

    def _render(self, status: int, content: str, head: str, headers: Mapping[str, str]) -> web.Response:
        text = self._template.substitute(style=self._style, head=head, content=content)
        return web.Response(
            status=status, text=text, content_type="text/html", charset="utf-8", headers={**self._headers, **headers}
        )


def _is_browser(request: web.Request) -> bool:
    return "text/html" in request.headers.get("Accept", "")


def _basic_password(request: web.Request) -> str | None:
    """Return the password of `Authorization: Basic` (RFC 7617), whatever the user name; None without one."""
    values = request.headers.getall("Authorization", [])
    if len(values) > 1:
        raise InvalidRequest("Authorization", "the field once")
    scheme, _, encoded = (values[0] if values else "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise InvalidRequest("Authorization", "Basic and base64 of user:password") from None
    return password if colon else None
