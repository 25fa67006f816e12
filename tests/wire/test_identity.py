"""Credentials over the life of an upload: they end, are renewed, are revoked in the middle, and limit what comes in."""

from __future__ import annotations

import base64
import io
import ipaddress
import json
import logging

import pytest
import structlog

from tests.unit.identity.test_issuers import CASES, corpus
from tests.wire.client import CT, V
from tests.wire.identity import ALICE, ISSUER, bearer, guarded, upload_token, user_token
from tests.wire.rig import PART_SIZE
from tests.wire.rufh import RufhClient
from tusgate.core.access import Permission
from tusgate.settings import Settings
from tusgate.telemetry import configure_logging
from tusgate.web.config import WebConfig

LOOPBACK = (ipaddress.ip_network("127.0.0.1/32"),)
UNKNOWN = "/files/" + "A" * 24


@pytest.fixture
async def here(tmp_path):
    async with guarded(tmp_path) as started:
        yield started


@pytest.fixture
def begin(tmp_path):
    """Serve with a WebConfig of the test's own."""
    return lambda **changes: guarded(tmp_path, WebConfig(**changes))


async def test_a_jwt_carries_an_upload_from_its_creation_to_its_end(here):
    path = await here.create(user_token(), 6)
    assert (await here.client.patch(path, 0, b"abc", user_token(jti="renewed"))).offset == 3
    assert (await here.client.patch(path, 3, b"def", user_token())).offset == 6
    assert await here.rig.stored(path, ALICE) == b"abcdef"


@pytest.mark.parametrize("case", CASES)
async def test_an_attack_on_the_token_reaches_neither_uploads_nor_bodies(here, case):
    """AT-01 over the wire."""
    if case.startswith("kid"):  # one pinned key: ids do not count
        return
    path = await here.create(user_token())
    token = bearer(corpus(ISSUER, "http://127.0.0.1:9")[case])
    for method, target in (("PATCH", path), ("POST", "/files")):
        refused = await here.ask(method, target, {**V, **CT, **token, "Upload-Offset": "0", "Upload-Length": "1"})
        assert refused.status == (400 if case == "100 KB" else 401)  # too long a line is no HTTP to us
    assert (await here.rig.row(path, ALICE)).offset == 0
    assert await here.rig.count() == 1


@pytest.mark.parametrize("kind", ["jwt", "upload token"])
async def test_a_token_that_ends_in_the_middle_is_replaced_by_a_fresh_one_of_the_same_owner(here, kind):
    """AT-05."""
    fresh, old = (user_token, user_token(exp=1)) if kind == "jwt" else (upload_token, upload_token(exp=1))
    path = await here.create(fresh(), 6)
    assert (await here.client.patch(path, 0, b"abc", fresh())).status == 204
    refused = await here.client.patch(path, 3, b"def", old)
    assert (refused.status, refused.body.partition(b":")[0]) == (401, b"credentials_expired")
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]
    assert "Upload-Offset" not in refused.headers
    assert (await here.client.request("HEAD", path, V | fresh())).offset == 3
    assert (await here.client.patch(path, 3, b"def", fresh())).offset == 6
    assert await here.rig.stored(path, ALICE) == b"abcdef"


async def test_a_head_with_a_token_that_has_ended_does_not_make_clients_forget_the_upload(here):
    """tus-js-client and tuspy drop the URL after a HEAD with any 4xx but 423, and begin anew."""
    headers, token = await here.static_token()
    path = await here.create(headers)
    await here.revoke(token)
    for ended in (headers, user_token(exp=1), upload_token(exp=1)):
        answer = await here.client.request("HEAD", path, V | ended)
        assert answer.status == 423
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    for never in ({}, bearer("a.b.c")):
        assert (await here.client.request("HEAD", path, V | never)).status == 401


async def test_a_head_of_rufh_with_a_token_that_has_ended_is_401(here):
    """Its clients try a 5xx again and take a 4xx for final; none of them begins anew."""
    path = (await RufhClient(here.client, None).create(Authorization=user_token()["Authorization"])).upload_path
    answer = await RufhClient(here.client, None).request("HEAD", path, user_token(exp=1))
    assert answer.status == 401


async def test_a_revoked_token_is_refused_by_every_request_and_nothing_is_lost(here):
    headers, token = await here.static_token()
    path = await here.create(headers, 6)
    await here.client.patch(path, 0, b"abc", headers)
    await here.revoke(token)
    assert (await here.client.patch(path, 3, b"def", headers)).status == 401
    assert (await here.client.post({"Upload-Length": "1"} | headers)).status == 401
    assert (await here.client.request("DELETE", path, V | headers)).status == 401
    assert (await here.client.patch(path, 3, b"def", await here.who())).offset == 6
    assert await here.rig.stored(path, ALICE) == b"abcdef"


@pytest.mark.parametrize("size", [1000, PART_SIZE + 1000], ids=["one cell", "two cells"])
@pytest.mark.parametrize("how", ["declared", "deferred", "chunked"])
async def test_a_token_revoked_while_the_last_bytes_arrive_completes_nothing(here, size, how):
    """AT-05, I4: rights are checked again at the finish."""
    headers, token = await here.static_token()
    data = bytes(range(250)) * (size // 250) + b"x" * (size % 250)
    path = await here.create(headers, None if how == "deferred" else size)
    length = {"Upload-Length": str(size)} if how == "deferred" else {}
    framing = {"Transfer-Encoding": "chunked"} if how == "chunked" else {"Content-Length": str(size)}
    async with here.client.connect() as connection:
        connection.send_head("PATCH", path, {**V, **CT, **headers, **length, **framing, "Upload-Offset": "0"})
        for chunk, is_last in ((data[:-1], False), (data[-1:], True)):
            if is_last:
                await here.rig.until_row_taken_in(path, size - 1, ALICE)
                await here.rig.database.revoke_token(token.id)
            if how == "chunked":
                connection.send_chunk(chunk)
            else:
                connection.up.write(chunk)
        if how == "chunked":
            connection.send_chunk(b"")
        answer = await connection.answer()
    assert (answer.status, answer.body.partition(b":")[0]) == (401, b"credentials_expired")
    row = await here.rig.row(path, ALICE)
    assert (row.state, row.etag) == ("uploading", None)
    fresh = await here.who()
    offset = (await here.client.request("HEAD", path, V | fresh)).offset
    assert offset == row.offset < size
    assert (await here.client.patch(path, offset, data[offset:], fresh | length)).offset == size
    assert await here.rig.stored(path, ALICE) == data


async def test_a_token_revoked_in_the_middle_of_a_creation_with_bytes_or_a_plain_upload_makes_no_file(here):
    for method, fields in (("POST", {**V, **CT, "Upload-Length": "6"}), ("PUT", {})):
        headers, token = await here.static_token()
        async with here.client.connect() as connection:
            connection.send_head(method, "/files", {**fields, **headers, "Content-Length": "6"})
            connection.up.write(b"abc")
            await here.rig.until_taken_in(3)
            await here.rig.database.revoke_token(token.id)
            connection.up.write(b"def")
            assert (await connection.answer()).status == 401
    by_state = await here.rig.database.count_by_state()
    assert by_state.get("complete", 0) == 0


async def test_a_token_revoked_in_the_middle_of_rufh_leaves_what_can_be_continued(here):
    headers, token = await here.static_token()
    path = (await RufhClient(here.client, None).create(b"abc", Authorization=headers["Authorization"])).upload_path
    fields = {**RufhClient(here.client, None).draft.append(3, ends=True), **headers, "Content-Length": "3"}
    async with here.client.connect() as connection:
        connection.send_head("PATCH", path, fields)
        connection.up.write(b"de")
        await here.rig.until_taken_in(2)
        await here.rig.database.revoke_token(token.id)
        connection.up.write(b"f")
        assert (await connection.answer()).status == 401
    assert (await here.rig.row(path, ALICE)).state == "uploading"
    fresh = {"Authorization": (await here.who())["Authorization"]}
    done = await RufhClient(here.client, None).append(path, 3, b"def", ends=True, **fresh)
    assert done.status == 201
    assert await here.rig.stored(path, ALICE) == b"abcdef"


@pytest.mark.parametrize("permission", [Permission.READ, Permission.APPEND])
async def test_who_may_only_look_ends_no_writer_of_rufh(here, permission):
    """The HEAD of RUFH ends the request that writes, for whoever means to continue it."""
    writer, asker = await here.who(), await here.who(permissions=frozenset({permission}))
    path = (await RufhClient(here.client, None).create(Authorization=writer["Authorization"])).upload_path
    fields = {**RufhClient(here.client, None).draft.append(0, ends=True), **writer, "Content-Length": "6"}
    async with here.client.connect() as connection:
        connection.send_head("PATCH", path, fields)
        connection.up.write(b"abc")
        await here.rig.until_taken_in(3)
        assert (await RufhClient(here.client, None).request("HEAD", path, asker)).status == 204
        connection.up.write(b"def")
        ended = await connection.answer()
    assert ended.status == (201 if permission is Permission.READ else 503)


async def test_a_policy_that_changed_before_the_last_patch_leaves_no_object(here):
    """AT-05: the credentials of the last request count."""
    path = await here.create(await here.who(), 6)
    await here.client.patch(path, 0, b"abc", await here.who())
    creator = await here.who(permissions=frozenset({Permission.CREATE, Permission.READ}))
    assert (await here.client.patch(path, 3, b"def", creator)).status == 403
    assert (await here.client.patch(path, 3, b"def", upload_token(max_size=5))).status == 413
    row = await here.rig.row(path, ALICE)
    assert (row.offset, row.state) == (3, "uploading")


class TestOrder:
    async def test_version_before_credentials_before_permission_before_everything_else(self, here):
        reader = await here.who(permissions=frozenset({Permission.READ}))
        bad = {"Upload-Offset": "x", "Content-Type": "text/plain"}
        assert (await here.client.request("PATCH", "/files/x", bad, b"x")).status == 412
        assert (await here.client.request("PATCH", "/files/x", V | bad, b"x")).status == 401
        assert (await here.client.request("PATCH", "/files/x", V | bad | reader, b"x")).status == 403
        writer = await here.who()
        assert (await here.client.request("PATCH", "/files/x", V | bad | writer, b"x")).status == 404
        own = await here.create(writer)
        assert (await here.client.request("PATCH", own, V | bad | writer, b"x")).status == 415

    @pytest.mark.parametrize("language", ["tus", "rufh", "plain"])
    async def test_no_100_continue_and_no_byte_is_read_before_credentials_have_passed(self, here, language):
        """PA-12."""
        method, path, fields = {
            "tus": ("PATCH", await here.create(await here.who()), {**V, **CT, "Upload-Offset": "0"}),
            "rufh": ("POST", "/files", {"Upload-Complete": "?1"}),
            "plain": ("PUT", "/files", {}),
        }[language]
        reader = await here.who(permissions=frozenset({Permission.READ}))
        for who, expected in (({}, 401), (bearer("a.b.c"), 401), (user_token(exp=1), 401), (reader, 403)):
            async with here.client.connect() as connection:
                sent = {**fields, **who, "Expect": "100-continue", "Content-Length": "10"}
                connection.send_head(method, path, sent)
                answer = await connection.answer()
                assert (answer.status, answer.interim) == (expected, [])
                assert answer.headers["Connection"] == "close"
        async with here.client.connect() as connection:
            good = {**fields, **await here.who(), "Expect": "100-continue", "Content-Length": "10"}
            connection.send_head(method, path, good)
            assert (await connection.interim()).status == 100
            connection.up.write(b"0123456789")
            assert (await connection.answer()).status in (201, 204)

    async def test_credentials_twice_are_malformed(self, here):
        pair = [("Authorization", user_token()["Authorization"]), ("Authorization", bearer("x")["Authorization"])]
        answer = await here.client.request("POST", "/files", [*V.items(), ("Upload-Length", "1"), *pair])
        assert answer.status == 400

    @pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer  "])
    async def test_the_scheme_is_written_in_any_letters(self, here, scheme):
        token = user_token()["Authorization"].removeprefix("Bearer ")
        answer = await here.client.post({"Upload-Length": "1", "Authorization": f"{scheme} {token}"})
        assert answer.status == 201

    async def test_a_database_that_is_away_is_503_and_never_401(self, here):
        headers, path = await here.who(), "/files/" + "A" * 24
        await here.rig.database.close()
        assert (await here.client.patch(path, 0, b"x", headers)).status == 503
        assert (await here.client.request("HEAD", path, V | headers)).status == 423


class TestPages:
    """AT-08: what browsers are told about answers that refuse."""

    async def test_a_listed_origin_sees_the_refusal_and_no_other_one_does(self, begin):
        async with begin(cors_origins=("https://app.example.com",)) as here:
            seen = await here.client.post({"Upload-Length": "1", "Origin": "https://app.example.com"})
            assert seen.status == 401
            assert seen.headers["Access-Control-Allow-Origin"] == "https://app.example.com"
            assert seen.headers["Access-Control-Allow-Credentials"] == "true"
            assert seen.headers["Vary"] == "Origin"
            for other in (
                "https://app.example.com.evil.tld",
                "https://evilapp.example.com",
                "http://app.example.com",
                "https://app.example.com:8443",
                "https://app.example.com.",
                "null",
            ):
                hidden = await here.client.request(
                    "POST", "/files", {**V, "Upload-Length": "1", "Origin": other} | user_token()
                )
                assert hidden.status == 403, other
                assert not [name for name in hidden.headers if name.startswith("Access-Control-Allow")], other

    async def test_any_origin_is_never_told_to_send_credentials_along(self, here):
        answer = await here.client.post({"Upload-Length": "1", "Origin": "https://any.example"} | user_token())
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (201, "*")
        assert "Access-Control-Allow-Credentials" not in answer.headers


class TestProxies:
    """AT-09: the word of a proxy counts when the connection comes from one that is listed."""

    async def test_a_user_whom_a_listed_proxy_names_owns_uploads(self, begin):
        async with begin(trusted_proxies=LOOPBACK) as here:
            path = await here.create({"X-Forwarded-User": "carol"}, 3)
            assert (await here.client.patch(path, 0, b"abc", {"X-Forwarded-User": "carol"})).status == 204
            assert (await here.client.request("HEAD", path, V | {"X-Forwarded-User": "dave"})).status == 404
            assert (await here.client.request("HEAD", path, V)).status == 401

    async def test_anybody_else_who_claims_a_user_is_nobody(self, here, begin):
        fields = {"X-Forwarded-User": "carol", "Forwarded": "for=127.0.0.1", "X-Forwarded-For": "127.0.0.1"}
        assert (await here.client.post({"Upload-Length": "1"} | fields)).status == 401

    async def test_a_field_that_came_twice_names_nobody(self, begin):
        async with begin(trusted_proxies=LOOPBACK) as here:
            fields = [*V.items(), ("Upload-Length", "1"), ("X-Forwarded-User", "carol"), ("x-forwarded-user", "root")]
            assert (await here.client.request("POST", "/files", fields)).status == 401

    @pytest.mark.parametrize(
        "fields",
        [
            {"X-Forwarded-Host": "evil.example"},
            {"X-Forwarded-Proto": "javascript"},
            {"Forwarded": 'host="evil.example"'},
            {"Host": "evil.example"},
            {"X-Forwarded-Host": "uploads.example.com, evil.example"},
            {"Forwarded": "host=uploads.example.com, host=evil.example"},
        ],
        ids=repr,
    )
    async def test_a_location_is_below_the_configured_address_whoever_asks(self, tmp_path, fields):
        for proxies in ((), LOOPBACK):
            config = WebConfig(public_url="https://uploads.example.com", trusted_proxies=proxies)
            async with guarded(tmp_path, config) as here:
                answer = await here.client.post({"Upload-Length": "1", **user_token(), **fields})
                assert answer.headers["Location"].startswith("https://uploads.example.com/files/")


class TestUploadTokens:
    def metadata(self, **values):
        return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())

    async def test_a_file_beyond_the_size_is_refused_before_and_while_it_arrives(self, here):
        limit = upload_token(max_size=5)
        assert (await here.client.post({"Upload-Length": "6"} | limit)).status == 413
        assert await here.rig.count() == 0
        path = await here.create(limit, None)
        assert (await here.client.patch(path, 0, b"123456", limit)).status == 413
        assert (await here.client.patch(path, 0, b"123456", limit, chunked=True)).status == 413
        assert (await here.client.patch(path, 0, b"", limit | {"Upload-Length": "6"})).status == 413
        assert (await here.client.patch(path, 0, b"12345", limit | {"Upload-Length": "5"})).offset == 5

    @pytest.mark.parametrize("chunked", [False, True])
    async def test_so_it_is_in_the_other_protocols(self, here, chunked):
        put = await self.plain(here, upload_token(max_size=5, jti="plain"), b"123456", chunked=chunked)
        assert put.status == 413
        limit = upload_token(max_size=5, jti="rufh")
        rufh = RufhClient(here.client, None)
        refused = await rufh.request("POST", "/files", {"Upload-Complete": "?1"} | limit, b"123456", chunked=chunked)
        assert refused.status == 413
        assert (await here.rig.database.count_by_state()).get("complete", 0) == 0

    async def plain(self, here, fields, body, *, chunked=False):
        async with here.client.connect() as connection:
            framing = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
            connection.send_head("PUT", "/files/a.bin", fields | framing)
            if chunked:
                connection.send_chunk(body)
                connection.send_chunk(b"")
            else:
                connection.up.write(body)
            return await connection.answer()

    @pytest.mark.parametrize(
        ("declared", "allowed"),
        [
            ("image/png", True),
            ("IMAGE/PNG; q=1", True),
            ("application/pdf", True),
            ("application/pdfx", False),
            ("imagex/png", False),
            ("text/html", False),
            (None, False),
        ],
    )
    async def test_a_file_of_another_declared_type_is_refused(self, here, declared, allowed):
        limit = upload_token(types=["image/*", "Application/PDF"])
        fields = {"Upload-Metadata": self.metadata(filetype=declared)} if declared else {}
        assert (await here.client.post({"Upload-Length": "1", **fields} | limit)).status == (201 if allowed else 403)
        typed = {"Content-Type": declared} if declared else {}
        put = await self.plain(here, typed | upload_token(types=["image/*", "application/pdf"], jti="two"), b"x")
        assert put.status == (201 if allowed else 403)

    async def test_the_upload_gets_the_metadata_of_the_token(self, here):
        limit = upload_token(metadata={"album": "7", "filename": "forced.png"})
        path = await here.create(limit, 3, Upload_Metadata=self.metadata(note="mine"))
        told = (await here.client.request("HEAD", path, V | limit)).headers["Upload-Metadata"]
        assert told == self.metadata(note="mine", album="7", filename="forced.png")
        assert (await here.rig.row(path, ALICE)).filename == "forced.png"
        other = await here.create(upload_token(metadata={"album": "7"}, jti="two"), 3)
        told = (await here.client.request("HEAD", other, V | limit)).headers["Upload-Metadata"]
        assert told == self.metadata(album="7")
        put = await self.plain(here, upload_token(metadata={"album": "7", "type": "image/png"}, jti="three"), b"x")
        row = await here.rig.row(put.upload_path, ALICE)
        assert (row.metadata, row.content_type) == (self.metadata(album="7", type="image/png").encode(), "image/png")

    async def test_a_client_that_says_otherwise_or_leaves_out_what_it_owes_is_refused(self, here):
        limit = upload_token(metadata={"album": "7"}, required_metadata=["filename"])
        for sent in ({"album": "8", "filename": "a"}, {"album": "7"}, {}, {"filename": ""}):
            answer = await here.client.post({"Upload-Length": "1", "Upload-Metadata": self.metadata(**sent)} | limit)
            assert (answer.status, answer.body.partition(b":")[0]) == (403, b"not_covered")
        same = self.metadata(album="7", filename="a")
        path = await here.create(limit, 1, Upload_Metadata=same)
        assert (await here.client.request("HEAD", path, V | limit)).headers["Upload-Metadata"] == same

    async def test_one_token_makes_one_upload(self, here):
        limit = upload_token()
        path = await here.create(limit, 3)
        assert (await here.client.post({"Upload-Length": "4"} | limit)).status == 403
        assert (
            await here.client.post({"Upload-Length": "3", "Upload-Metadata": self.metadata(a="b")} | limit)
        ).status == 403
        assert (await self.plain(here, limit, b"abc")).status == 403
        await here.client.patch(path, 0, b"abc", limit)
        refused = await here.client.post({"Upload-Length": "3"} | limit)
        assert (refused.status, refused.body.partition(b":")[0]) == (403, b"token_spent")
        assert "Upload-Offset" not in refused.headers
        assert await here.rig.count() == 1

    async def test_a_client_that_lost_the_answer_finds_the_upload_that_it_has_made(self, here):
        limit = upload_token()
        path = await here.create(limit, 3)
        assert await here.create(limit, 3) == path
        again = await here.client.post({**CT, "Upload-Length": "3"} | limit, b"abc")
        assert (again.status, again.upload_path, again.offset) == (201, path, 0)
        assert (await here.client.patch(path, 0, b"abc", limit)).offset == 3
        assert await here.rig.count() == 1

    async def test_two_files_of_one_length_never_become_one(self, here):
        limit = upload_token()
        path = await here.create(limit, 6)
        assert (await here.client.patch(path, 0, b"abc", limit)).status == 204
        assert (await here.client.post({"Upload-Length": "6"} | limit)).status == 403

    async def test_a_fresh_token_of_the_same_subject_continues_and_one_of_another_does_not(self, here):
        path = await here.create(upload_token(), 6)
        await here.client.patch(path, 0, b"abc", upload_token())
        assert (await here.client.patch(path, 3, b"def", upload_token(jti="fresh", sub="bob"))).status == 404
        assert (await here.client.patch(path, 3, b"def", upload_token(jti="fresh"))).offset == 6

    async def test_it_may_not_delete_unless_it_says_so(self, here):
        path = await here.create(upload_token(), 6)
        assert (await here.client.request("DELETE", path, V | upload_token())).status == 403
        allowed = upload_token(jti="two", permissions=["delete"])
        assert (await here.client.request("DELETE", path, V | allowed)).status == 204


CANARY = "c4n4ry-7b1e-never-to-be-seen"


@pytest.fixture
def lines():
    """Configure logging as in production; the value returns what was logged since, line by line."""
    stream = io.StringIO()
    before = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logging(Settings(log_format="json", log_level="debug"), stream)
    structlog.configure(cache_logger_on_first_use=False)  # else the loggers of modules would keep this stream
    yield lambda: stream.getvalue().splitlines()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger().handlers[:], logging.getLogger().level = before


async def test_no_secret_of_a_request_is_logged_and_every_line_stays_one_object(tmp_path, lines):
    """AT-12, I19: each path that refuses, with canaries wherever a client may put a secret."""
    odd = f"{CANARY}%0a\x1b[31m\u2028"
    async with guarded(tmp_path, WebConfig(trusted_proxies=LOOPBACK)) as here:
        path = await here.create(await here.who())
        secrets = [
            {"Authorization": f"Bearer {odd}"},
            {"Authorization": f"Basic {odd}"},
            {"Authorization": f"Bearer tusgate_{'0' * 16}_{CANARY}"},
            bearer(ISSUER.token(aud="x", canary=CANARY)),
            bearer(ISSUER.token(tenant=CANARY + "/", exp=1)),
            bearer(ISSUER.token(tenant=CANARY + "/")),
            upload_token(jti=CANARY + "\n"),
            upload_token(types=CANARY),
            {"X-Forwarded-User": odd},
            {"Cookie": f"session={odd}"},
        ]
        hostile = [{"Upload-Metadata": odd}, {"X-Request-ID": odd}, {"Upload-Length": odd}, {"Origin": odd}]
        alice = await here.who()
        for who in (*secrets, *(alice | fields for fields in hostile)):
            for method, target in (
                ("POST", "/files"),
                ("PATCH", path),
                ("DELETE", UNKNOWN),
                ("PUT", f"/files/{CANARY}"),
            ):
                await here.ask(method, target, {**V, **CT, "Upload-Length": "1", "Upload-Offset": "5", **who})
            await here.ask("HEAD", f"{path}?token={CANARY}", V | who, b"")
        await here.rig.database.close()
        away = bearer(f"tusgate_{'0' * 16}_{CANARY.encode().hex():0<64}")
        assert (await here.ask("PATCH", path, {**V, **CT, **away, "Upload-Offset": "0"})).status == 503
    logged = [json.loads(line) for line in lines()]
    assert [event for event in logged if event["event"] == "identity.refused"]
    assert [line for line in lines() if CANARY in line] == []
