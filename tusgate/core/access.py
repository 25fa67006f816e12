"""Who may do what: the values of identity, the one table of permissions, and the decisions that follow from them.

Rule 1: `REQUIRED` is the only place where a route and a method meet a permission. A method that it does not name
        is not offered; a protocol that offers it all the same is found by the tests, which enumerate the table.
Rule 2: permissions say what somebody may do with their own uploads. Whose those are is decided by the `Scope`, in the
        WHERE of every statement: what belongs to others is unknown, never forbidden.
Rule 3: a `Principal` never holds the credential that proved it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tusgate.core.content import is_listed, media_type
from tusgate.core.errors import CredentialsExpired, InvalidCredentials, NotCovered, PermissionMissing, TooLarge
from tusgate.core.model import Scope, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from tusgate.core.model import NewUpload, Upload


class Permission(StrEnum):
    """What a principal may do with the uploads of its scope."""

    CREATE = "create"
    APPEND = "append"
    READ = "read"
    LIST = "list"
    DELETE = "delete"
    SHARE = "share"
    PROCESS = "process"
    ADMIN = "admin"


ALL: Final = frozenset(Permission)
USER: Final = ALL - {Permission.ADMIN, Permission.PROCESS}
"""What somebody may do who was not given anything in particular."""
UPLOADER: Final = frozenset({Permission.CREATE, Permission.APPEND})
"""What an upload token may do unless it says otherwise."""


class Route(StrEnum):
    """A kind of resource, as the table of permissions knows it."""

    UPLOADS = "uploads"
    """Where uploads are created."""
    UPLOAD = "upload"
    """One upload, or the name that a PUT gives to a new one."""
    FILES = "files"
    """The listing of files in the API."""
    DELETIONS = "files/delete"
    """Where many files are deleted at once."""
    FILE = "file"
    """What the API says of one file."""
    PROCESSING = "file/processing"
    """What is done with a finished file."""
    CONTENT = "content"
    """The bytes of a file."""
    EVENTS = "events"
    """What happens to one's own uploads."""
    TENANT_EVENTS = "tenant/events"
    """What happens to all uploads of the tenant."""
    UPLOAD_EVENTS = "upload/events"
    """What happens to one upload."""
    USAGE = "usage"
    """What the tenant has, and may have."""
    DIRECT_UPLOADS = "direct uploads"
    """Where uploads are created whose parts clients send to the store themselves."""
    DIRECT_UPLOAD = "direct upload"
    """One of these."""
    PARTS = "direct upload/parts"
    """What the store has of it."""
    PLAN = "direct upload/plan"
    """What was declared of it."""
    PART_URLS = "direct upload/urls"
    """Where the URLs are made by which its parts are sent."""
    INSTANT_UPLOADS = "instant uploads"
    """Where files are made without their bytes."""
    FINGERPRINT = "fingerprint"
    """What there is of the file with a fingerprint."""
    COMPLETION = "direct upload/complete"
    """Where it is said that all parts are there."""
    SHARES = "file/shares"
    """The share links of a file."""
    SHARE = "file/share"
    """One of them, as its owner sees it."""
    FILE_ACCESSES = "file/accesses"
    """Who read a file."""
    ACCESSES = "accesses"
    """Who read any file of the tenant."""
    JOBS = "jobs"
    """Where external workers get jobs, of all files of the tenant."""
    JOB = "job"
    """One that a worker has."""
    JOB_SOURCE = "job/source"
    """The bytes of its file."""
    JOB_DERIVED = "job/derived"
    """What is made of it."""


REQUIRED: Final[Mapping[tuple[Route, str], frozenset[Permission]]] = {
    (Route.UPLOADS, "POST"): frozenset({Permission.CREATE}),
    (Route.UPLOADS, "PUT"): frozenset({Permission.CREATE}),
    (Route.UPLOAD, "PUT"): frozenset({Permission.CREATE}),
    # Where an upload stands: asked by who continues it, and by who only looks.
    (Route.UPLOAD, "HEAD"): frozenset({Permission.APPEND, Permission.READ}),
    (Route.UPLOAD, "GET"): frozenset({Permission.APPEND, Permission.READ}),
    (Route.UPLOAD, "PATCH"): frozenset({Permission.APPEND}),
    (Route.UPLOAD, "DELETE"): frozenset({Permission.DELETE}),
    (Route.FILES, "GET"): frozenset({Permission.LIST}),
    (Route.DELETIONS, "POST"): frozenset({Permission.DELETE}),
    (Route.FILE, "GET"): frozenset({Permission.READ}),
    (Route.FILE, "PATCH"): frozenset({Permission.CREATE}),  # who names new files may name them again
    (Route.FILE, "DELETE"): frozenset({Permission.DELETE}),
    (Route.PROCESSING, "POST"): frozenset({Permission.CREATE}),  # whose jobs came with the creation
    (Route.CONTENT, "GET"): frozenset({Permission.READ}),
    (Route.USAGE, "GET"): frozenset({Permission.LIST}),
    (Route.EVENTS, "GET"): frozenset({Permission.LIST}),
    (Route.TENANT_EVENTS, "GET"): frozenset({Permission.ADMIN}),  # of all owners
    (Route.UPLOAD_EVENTS, "GET"): frozenset({Permission.APPEND, Permission.READ}),  # as HEAD of the upload
    (Route.DIRECT_UPLOADS, "POST"): frozenset({Permission.CREATE}),
    (Route.INSTANT_UPLOADS, "POST"): frozenset({Permission.CREATE}),
    (Route.DIRECT_UPLOAD, "GET"): frozenset({Permission.APPEND, Permission.READ}),
    (Route.DIRECT_UPLOAD, "DELETE"): frozenset({Permission.DELETE}),
    (Route.PLAN, "PUT"): frozenset({Permission.CREATE}),  # it declares another file
    (Route.PARTS, "GET"): frozenset({Permission.APPEND, Permission.READ}),
    (Route.PART_URLS, "POST"): frozenset({Permission.APPEND}),
    (Route.COMPLETION, "POST"): frozenset({Permission.APPEND}),
    (Route.FINGERPRINT, "GET"): frozenset({Permission.APPEND, Permission.READ}),
    (Route.SHARES, "GET"): frozenset({Permission.SHARE}),
    (Route.SHARES, "POST"): frozenset({Permission.SHARE}),
    (Route.SHARE, "DELETE"): frozenset({Permission.SHARE}),
    (Route.FILE_ACCESSES, "GET"): frozenset({Permission.LIST, Permission.ADMIN}),
    (Route.ACCESSES, "GET"): frozenset({Permission.ADMIN}),
    (Route.JOBS, "POST"): frozenset({Permission.PROCESS}),
    (Route.JOB, "POST"): frozenset({Permission.PROCESS}),
    (Route.JOB_SOURCE, "GET"): frozenset({Permission.PROCESS}),
    (Route.JOB_DERIVED, "PUT"): frozenset({Permission.PROCESS}),
}
"""Route and effective method to the permissions of which one is needed. OPTIONS needs none, and no credentials. A HEAD
of the API is a GET."""

TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
"""Tenants are names that operators choose; they become parts of object keys."""
UPLOAD_AUDIENCE: Final = "tusgate-upload"
"""`aud` of upload tokens; no other token may have it."""
LONGEST_OWNER: Final = 255
LONGEST_TOKEN_ID: Final = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an upload token allows for the uploads that are made and continued with it.

    Attributes:
        max_size: bytes of the whole upload.
        types: allowed media types, `image/*` for all of a kind; empty = any.
        metadata: what the upload is given, whatever the client says; it may not say otherwise.
        required_metadata: keys that the client has to give.
        token_id: of one upload only (`jti`): a second creation with it makes no second upload.
    """

    max_size: int | None = None
    types: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    required_metadata: tuple[str, ...] = ()
    token_id: str | None = None


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Whoever sends a request, as far as it was proved.

    Attributes:
        scope: whose uploads these are: tenant and owner.
        until: seconds since 1970 at which the credential ends; None = never by itself. Counts when a request begins.
        proof: how it was proved: `open`, `token:<id>`, `jwt:<issuer>`, `upload-token`, `proxy`.
    """

    scope: Scope = field(default_factory=Scope)
    permissions: frozenset[Permission] = USER
    limits: Limits = UNLIMITED
    until: float | None = None
    proof: str = "open"

    def is_current(self, now: float) -> bool:
        """Return whether the credential still counts at `now`."""
        return self.until is None or now < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Presented:
    """What a request presents to prove who sends it.

    Attributes:
        bearer: what `Authorization: Bearer` carries; None without one.
        vouched: header fields (names in lower case) that a trusted proxy vouches for; empty when none sent the
            request. A field that came more than once has more than one value.
    """

    bearer: str | None = field(default=None, repr=False)
    vouched: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiToken:
    """A static token as the database keeps it: everything but the secret.

    Attributes:
        digest: SHA-256 of the secret, which has 256 random bits: nothing that could be guessed, so no slow hash.
        label: what its maker calls it.
        last_used_at: to about a minute.
    """

    id: str
    digest: bytes = field(repr=False)
    scope: Scope
    permissions: frozenset[Permission]
    label: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiToken:
    """A static token to be; times are counted by the database.

    Attributes:
        lifetime: seconds; None = it ends by being revoked.
    """

    id: str
    digest: bytes = field(repr=False)
    scope: Scope
    permissions: frozenset[Permission]
    label: str
    lifetime: float | None


def may(principal: Principal, route: Route, method: str) -> bool:
    """Return whether `principal` may use `method` on `route`; what is not offered passes."""
    needed = REQUIRED.get((route, method))
    return needed is None or bool(needed & principal.permissions)


def check_permission(principal: Principal, route: Route, method: str) -> None:
    """Raise PermissionMissing unless `principal` may use `method` on `route`."""
    if not may(principal, route, method):
        raise PermissionMissing(tuple(sorted(REQUIRED[route, method])))


def check_current(principal: Principal, now: float) -> None:
    """Raise CredentialsExpired when the time of the credential is over."""
    if not principal.is_current(now):
        raise CredentialsExpired


def parse_permissions(names: Iterable[str]) -> frozenset[Permission]:
    """Return the permissions of that name. Raises ValueError for a name that is none."""
    return frozenset(Permission(name) for name in names)


def scope_of(tenant: str, owner: str) -> Scope:
    """Return the scope that a credential claims.

    Raises:
        InvalidCredentials: a tenant that is no name; an owner that is empty, too long or cannot be printed. Open mode
            alone has the empty owner.
    """
    if TENANT.fullmatch(tenant) is None:
        raise InvalidCredentials("the tenant is not a name of letters, digits, dots and dashes")
    if not owner or len(owner) > LONGEST_OWNER or not owner.isprintable():
        raise InvalidCredentials(f"the owner is not a printable text of 1 to {LONGEST_OWNER} characters")
    return Scope(tenant, owner)


def imposed_metadata(limits: Limits, given: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what has to be added to the metadata that a client gives.

    Raises:
        NotCovered: the client says otherwise, or leaves out what it has to give.
    """
    missing = [key for key in limits.required_metadata if not given.get(key)]
    if missing:
        raise NotCovered(f"Upload-Metadata: the token demands the key {missing[0]}")
    imposed = {key: value.encode() for key, value in limits.metadata}
    for key, value in imposed.items():
        if given.get(key, value) != value:
            raise NotCovered(f"Upload-Metadata: the token demands another value of {key}")
    return {key: value for key, value in imposed.items() if key not in given}


def check_type(limits: Limits, content_type: str | None) -> None:
    """Raise NotCovered unless the declared media type is one that `limits` allows; parameters do not count."""
    name = media_type(content_type)
    allowed = [pattern.lower() for pattern in limits.types]
    if allowed and (name is None or not is_listed(name, allowed)):
        raise NotCovered(f"the token allows files of type {', '.join(limits.types)} only")


def check_length(length: int | None, limit: int | None) -> None:
    """Raise TooLarge when an upload of `length` bytes, None while that is open, passes `limit`."""
    if limit is not None and (length or 0) > limit:
        raise TooLarge(f"Upload-Length: {length} is more than the largest upload allowed, {limit}")


def asks_for_the_same(upload: Upload, new: NewUpload) -> bool:
    """Return whether a creation with a spent token only repeats the one that has made `upload`.

    A client whose answer was lost creates again, with the same token: it is given the upload that it has made. Only
    while nobody has ever written to that: two files of one length must not become one. Of direct uploads only the store
    knows that.
    """
    return (
        upload.state is State.UPLOADING
        and upload.epoch == 0
        and upload.created_via is new.created_via
        and (upload.length, upload.metadata, upload.content_type) == (new.length, new.metadata, new.content_type)
        and (upload.plan, upload.fingerprint) == (new.plan, new.fingerprint)
    )
