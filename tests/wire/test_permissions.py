"""Who may do what: every permission by every method on every route, generated (AT-02, AT-03)."""

from __future__ import annotations

import itertools

import pytest

from tests.wire.client import CT, V
from tests.wire.identity import ALICE, BOB, EVE, bearer, guarded, upload_token
from tests.wire.rufh import Draft
from tusgate.core.access import REQUIRED, Permission, Route
from tusgate.core.errors import InvalidCredentials
from tusgate.web.api.accesses import AccessesApi
from tusgate.web.api.files import FilesApi
from tusgate.web.api.openapi import Reference
from tusgate.web.api.shares import SharesApi
from tusgate.web.config import WebConfig
from tusgate.web.cors import ALLOW_METHODS

METHODS = ("POST", "PUT", "HEAD", "GET", "PATCH", "DELETE", "MOVE")
ALLOWED = {
    Permission.CREATE: {
        *((Route.UPLOADS, "POST"), (Route.UPLOADS, "PUT"), (Route.UPLOAD, "PUT")),
        *((Route.FILE, "PATCH"), (Route.PROCESSING, "POST"), (Route.DIRECT_UPLOADS, "POST")),
        (Route.INSTANT_UPLOADS, "POST"),
        *((Route.FILE, "PATCH"), (Route.PROCESSING, "POST"), (Route.DIRECT_UPLOADS, "POST"), (Route.PLAN, "PUT")),
    },
    Permission.APPEND: {
        *((Route.UPLOAD, "HEAD"), (Route.UPLOAD, "GET"), (Route.UPLOAD, "PATCH")),
        *((Route.DIRECT_UPLOAD, "GET"), (Route.PARTS, "GET"), (Route.PART_URLS, "POST"), (Route.COMPLETION, "POST")),
        *((Route.FINGERPRINT, "GET"), (Route.UPLOAD_EVENTS, "GET")),
    },
    Permission.READ: {
        *((Route.UPLOAD, "HEAD"), (Route.UPLOAD, "GET")),
        *((Route.FILE, "GET"), (Route.CONTENT, "GET"), (Route.DIRECT_UPLOAD, "GET"), (Route.PARTS, "GET")),
        *((Route.FINGERPRINT, "GET"), (Route.UPLOAD_EVENTS, "GET")),
    },
    Permission.LIST: {
        *((Route.FILES, "GET"), (Route.USAGE, "GET"), (Route.EVENTS, "GET")),
        (Route.FILE_ACCESSES, "GET"),
    },
    Permission.DELETE: {
        *((Route.UPLOAD, "DELETE"), (Route.FILE, "DELETE"), (Route.DELETIONS, "POST")),
        (Route.DIRECT_UPLOAD, "DELETE"),
    },
    Permission.SHARE: {(Route.SHARES, "GET"), (Route.SHARES, "POST"), (Route.SHARE, "DELETE")},
    Permission.PROCESS: {
        *((Route.JOBS, "POST"), (Route.JOB, "POST"), (Route.JOB_SOURCE, "GET"), (Route.JOB_DERIVED, "PUT")),
    },
    Permission.ADMIN: {(Route.TENANT_EVENTS, "GET"), (Route.FILE_ACCESSES, "GET"), (Route.ACCESSES, "GET")},
}
"""What each permission is for, written down a second time on purpose."""
OFFERED = set.union(*ALLOWED.values())
LANGUAGES = {
    "tus": {**V, **CT, "Upload-Length": "10", "Upload-Offset": "0"},
    "rufh": {**Draft(None).append(0, ends=False)},
    "rufh-8": {**Draft(8).append(0, ends=False)},
    "none": {},
}
UNKNOWN = "/files/" + "A" * 24


@pytest.fixture
async def here(tmp_path):
    async with guarded(tmp_path, WebConfig(is_open=False, share_keys=("k" * 32,))) as started:
        yield started


def requests(own):
    """Return every request: language, effective method, path, route, and the method and fields to send."""
    routes = ((Route.UPLOADS, "/files"), (Route.UPLOADS, "/files/"), (Route.UPLOAD, own), (Route.UPLOAD, UNKNOWN))
    for (language, fields), method, (route, path) in itertools.product(LANGUAGES.items(), METHODS, routes):
        yield f"{language} {method} {path}", route, method, method, path, fields
        overridden = {**fields, "X-HTTP-Method-Override": method}
        yield f"{language} POST for {method} {path}", route, method, "POST", path, overridden


def test_the_table_is_the_one_that_is_meant():
    assert {(key, permission) for key, needed in REQUIRED.items() for permission in needed} == {
        (key, permission) for permission, keys in ALLOWED.items() for key in keys
    }


def test_every_method_that_pages_may_send_is_in_the_table():
    assert {method for _, method in REQUIRED} == set(ALLOW_METHODS.split(", ")) - {"OPTIONS"}


@pytest.mark.parametrize("permission", [*Permission, None])
async def test_a_permission_allows_exactly_what_it_is_for(here, permission):
    """AT-03: each single permission by every route, method, override and language; None is a token without any."""
    held = frozenset({permission} if permission is not None else ())
    who = await here.who(permissions=held)
    everybody = await here.who()
    for name, route, method, sent, path, fields in requests(await here.create(everybody)):
        target = path if path == UNKNOWN or route is Route.UPLOADS else await here.create(everybody)
        answer = await here.ask(sent, target, {**fields, **who})
        if answer.status == 412:  # comes before credentials: tus is meant, and not said
            assert language_of(name) == "none", (name, answer)
            continue
        needed = {each for each, keys in ALLOWED.items() if (route, method) in keys}
        refused = bool(needed) and not needed & held
        assert (answer.status == 403) == refused, (name, answer)
        assert answer.status != 401, (name, answer)
        if (route, method) not in OFFERED:
            assert answer.status in (400, 404, 405, 412), (name, answer)
        if refused:
            assert 'error="insufficient_scope"' in answer.headers["WWW-Authenticate"], name
            if target not in (UNKNOWN, "/files", "/files/"):
                row = await here.rig.row(target, ALICE)
                assert (row.offset, row.epoch, row.state) == (0, 0, "uploading"), name


API = {
    (Route.FILES, "GET"): ("/api/v1/files", b""),
    (Route.DELETIONS, "POST"): ("/api/v1/files/delete", b'{"ids": ["%s"]}'),
    (Route.FILE, "GET"): ("/api/v1/files/%s", b""),
    (Route.FILE, "PATCH"): ("/api/v1/files/%s", b'{"filename": "a"}'),
    (Route.FILE, "DELETE"): ("/api/v1/files/%s", b""),
    (Route.PROCESSING, "POST"): ("/api/v1/files/%s/processing", b""),
    (Route.CONTENT, "GET"): ("/api/v1/files/%s/content", b""),
    (Route.USAGE, "GET"): ("/api/v1/usage", b""),
    (Route.SHARES, "GET"): ("/api/v1/files/%s/shares", b""),
    (Route.SHARES, "POST"): ("/api/v1/files/%s/shares", b"{}"),
    (Route.SHARE, "DELETE"): ("/api/v1/files/%s/shares/" + "A" * 24, b""),
    (Route.FILE_ACCESSES, "GET"): ("/api/v1/files/%s/accesses", b""),
    (Route.ACCESSES, "GET"): ("/api/v1/accesses", b""),
}
"""Route and method to path and body; the id of a file in the place of %s."""


def test_every_operation_of_the_api_is_in_the_matrix_or_open_to_all(here):
    audit = here.rig.audit
    files = (
        *FilesApi(WebConfig(), here.rig.files, audit).operations(),
        *SharesApi(None, None).operations(),
        *AccessesApi(audit).operations(),
    )
    assert {(operation.route, operation.method) for operation in files} == set(API)
    assert API.keys() <= REQUIRED.keys()
    assert all(operation.route is None for operation in Reference(files).operations())


@pytest.mark.parametrize("permission", [*Permission, None])
async def test_a_permission_allows_exactly_what_it_is_for_in_the_api(here, permission):
    """AT-03, AT-04: also by HEAD; an override of the method is not understood there."""
    held = frozenset({permission} if permission is not None else ())
    who, everybody = await here.who(permissions=held), await here.who()
    for (route, method), (path, body) in API.items():
        upload = await here.create(everybody, 3)
        await here.client.patch(upload, 0, b"abc", everybody)
        file_id = upload.rpartition("/")[2]
        target = path.replace("%s", file_id)
        refused = (route, method) not in ALLOWED.get(permission, set())
        for sent in ("GET", "HEAD") if method == "GET" else (method,):
            fields = {"Content-Type": "application/json", "X-HTTP-Method-Override": "GET", **who}
            answer = await here.ask(sent, target, fields, body.replace(b"%s", file_id.encode()))
            assert (answer.status == 403) == refused, (route, sent, answer)
            done = (404,) if route is Route.SHARE else (200, 201, 204)
            assert refused or answer.status in done, (route, sent, answer)
        state = (await here.rig.row(upload, ALICE)).state
        assert (state == "complete") == (
            refused or (route, method) not in ALLOWED[Permission.DELETE] or method == "GET"
        )


async def test_the_api_tells_nothing_without_credentials_that_count(here):
    own = (await here.create(await here.who())).rpartition("/")[2]
    for who in ({}, bearer("nonsense")):
        for (_, method), (path, body) in API.items():
            fields = {"Content-Type": "application/json", "Origin": "https://page.example", **who}
            answer = await here.ask(method, path.replace("%s", own), fields, body.replace(b"%s", own.encode()))
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="tusgate"')
            assert answer.headers["Content-Type"].startswith("application/problem+json")


@pytest.mark.parametrize("stranger", [BOB, EVE], ids=["another owner", "another tenant"])
async def test_files_of_others_are_answered_by_the_api_as_what_does_not_exist(here, stranger):
    """AT-02."""
    alice, who = await here.who(), await here.who(stranger)
    path = await here.create(alice, 3)
    await here.client.patch(path, 0, b"abc", alice)
    theirs, before = path.rpartition("/")[2], await here.rig.row(path, ALICE)
    for (_, method), (target, body) in API.items():
        fields = {"Content-Type": "application/json", "X-Request-ID": "the-same-id", **who}
        answers = []
        for each in (theirs, "A" * len(theirs)):
            answer = await here.ask(method, target.replace("%s", each), fields, body.replace(b"%s", each.encode()))
            answers.append((answer.status, without_date(answer), answer.body.replace(each.encode(), b"")))
        assert answers[0] == answers[1], (method, target)
    assert await here.rig.row(path, ALICE) == before


@pytest.mark.parametrize("who", [{}, bearer("nonsense"), bearer("a.b.c"), {"Authorization": "Basic YWxpY2U6eA=="}])
async def test_nobody_gets_anywhere_without_credentials_that_count(here, who):
    own = await here.create(await here.who())
    for name, _, _, sent, path, fields in requests(own):
        answer = await here.ask(sent, path, {**fields, **who, "Origin": "https://page.example"})
        assert answer.status == 401 or (answer.status == 412 and language_of(name) == "none"), (name, answer)
        assert answer.headers["Access-Control-Allow-Origin"] == "*", name
        if answer.status == 401:
            assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="tusgate"'), name
            assert "WWW-Authenticate" in answer.headers["Access-Control-Expose-Headers"], name
            assert answer.headers["Cache-Control"] == "no-store", name
    row = await here.rig.row(own, ALICE)
    assert (row.offset, row.epoch) == (0, 0)
    assert await here.rig.count() == 1


@pytest.mark.parametrize(
    "fields", [{}, V, {"Origin": "https://page.example", "Access-Control-Request-Method": "PATCH"}]
)
async def test_options_and_health_need_no_credentials(here, fields):
    for path in ("/files", UNKNOWN):
        assert (await here.ask("OPTIONS", path, fields, b"")).status == 200
    for path in ("/livez", "/readyz"):
        assert (await here.ask("GET", path, {}, b"")).status == 200


@pytest.mark.parametrize("stranger", [BOB, EVE], ids=["another owner", "another tenant"])
@pytest.mark.parametrize("state", ["uploading", "complete", "terminated"])
async def test_what_belongs_to_others_is_answered_as_what_does_not_exist(here, stranger, state):
    """AT-02: identical statuses, header fields and bodies, by every method and language; and it stays as it is."""
    alice, who = await here.who(), await here.who(stranger)
    theirs = await here.create(alice, 3)
    if state != "uploading":
        assert (await here.client.patch(theirs, 0, b"abc", alice)).status == 204
    if state == "terminated":
        assert (await here.client.request("DELETE", theirs, V | alice)).status == 204
    before = await here.rig.row(theirs, ALICE)
    pairs = list(zip(requests(theirs), requests(UNKNOWN), strict=True))
    for (name, route, method, sent, path, fields), (*_, twin, _) in pairs:
        if route is not Route.UPLOAD or path == UNKNOWN or method == "PUT":  # a PUT makes a new upload of that name
            continue
        assert twin == UNKNOWN
        identified = {**fields, **who, "X-Request-ID": "the-same-id"}
        foreign = await here.ask(sent, path, identified)
        unknown = await here.ask(sent, UNKNOWN, identified)
        assert (foreign.status, foreign.reason, foreign.body) == (unknown.status, unknown.reason, unknown.body), name
        assert without_date(foreign) == without_date(unknown), name
        assert foreign.status in (404, 405, 400, 412, 415), name
    assert await here.rig.row(theirs, ALICE) == before


async def test_a_missing_permission_is_said_without_a_look_at_the_upload(here):
    alice, reader = await here.who(), await here.who(BOB, frozenset({Permission.READ}))
    theirs = await here.create(alice)
    answers = [await here.ask("DELETE", path, {**V, **reader}) for path in (theirs, UNKNOWN, "/files/short")]
    assert {(answer.status, answer.body) for answer in answers} == {
        (403, b"permission_missing: this needs the permission delete\n")
    }


async def test_all_credentials_of_one_owner_reach_the_same_uploads(here):
    path = await here.create(upload_token())
    assert (await here.client.patch(path, 0, b"01234", await here.who())).offset == 5
    assert (await here.client.request("HEAD", path, V | upload_token(jti="two"))).offset == 5
    assert (await here.client.request("HEAD", path, V | upload_token(sub="bob"))).status == 404
    assert (await here.client.request("HEAD", path, V | upload_token(tenant="other"))).status == 404


async def test_the_answer_to_wrong_credentials_does_not_tell_what_is_wrong(here):
    answers = [await here.client.post({"Upload-Length": "1"} | bearer(token)) for token in ("a.b.c", "x", "tusgate_1")]
    answers.append(await here.client.post({"Upload-Length": "1"} | upload_token(sub=None)))
    assert {answer.body for answer in answers} == {f"{InvalidCredentials.code}: {InvalidCredentials()}\n".encode()}


def language_of(name):
    return name.split(" ")[0]


def without_date(answer):
    return sorted((name.lower(), value) for name, value in answer.headers.items() if name.lower() != "date")
