"""Share links over the wire: what they open, what ends them, passwords, counting, and who makes them (AT-06)."""

from __future__ import annotations

import asyncio
import base64
import json
import string
from datetime import UTC, datetime

import pytest
import structlog

from tests.wire.identity import ALICE, BOB, EVE, guarded
from tests.wire.rig import MIB, START, running
from tests.wire.test_downloads import on_s3, replace_object
from tests.wire.test_files_api import METADATA, NAME, ask, in_api, uploaded
from tusgate.core.access import Permission
from tusgate.core.sharing import Proven, ShareId, ShareKeys
from tusgate.service.sharing import MOST_OF_A_FILE, MOST_TRIES, TRIES_WINDOW
from tusgate.settings.model import SHARES_PATH
from tusgate.telemetry import redact
from tusgate.web.api.shared import COOKIE, SHARED
from tusgate.web.config import WebConfig

KEY, NEXT_KEY = "k" * 32, "n" * 32
CONFIG = WebConfig(share_keys=(KEY,))
DATA = bytes(range(256)) * 4096
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
SECRET = "open sesame"


@pytest.fixture
async def rig(tmp_path):
    async with running(tmp_path, CONFIG) as started:
        yield started


@pytest.fixture
def client(rig):
    return rig.client


@pytest.fixture
async def file(client):
    return await uploaded(client, DATA)


async def share(client, file, **allowed):
    """Make a link; return its path, and what the API shows of it."""
    status, shown = await ask(client, "POST", f"{file}/shares", allowed)
    assert status == 201, shown
    return "/" + shown["url"].split("/", 3)[3], shown


async def shown(client, file, made):
    """Return what the API shows of a link now."""
    _, listed = await ask(client, "GET", f"{file}/shares")
    return next(each for each in listed["shares"] if each["id"] == made["id"])


def session_of(answer):
    """Return the field by which a client goes on with its session."""
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}


def basic(password):
    return {"Authorization": "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()}


def after(seconds):
    return datetime.fromtimestamp(START + seconds, UTC).isoformat()


def without_date(answer):
    return answer.status, answer.body, sorted((n, v) for n, v in answer.headers.items() if n != "Date")


async def unknown(client, method="GET", **fields):
    return await client.request(method, f"{SHARED}/{'A' * 48}", {"X-Request-ID": "the-same-id", **fields})


async def is_unknown(client, path, **fields):
    answer = await client.request("GET", path, {"X-Request-ID": "the-same-id", **fields})
    assert answer.status == 404, answer
    return without_date(answer) == without_date(await unknown(client))


def test_the_settings_know_where_links_lead():
    assert SHARED == SHARES_PATH


async def test_a_link_opens_a_file_without_a_login(client, file):
    path, made = await share(client, file)
    answer = await client.request("GET", path)
    assert (answer.status, answer.body) == (200, DATA)
    assert made["has_password"] is False
    assert (made["max_downloads"], made["downloads"], made["expires_at"]) == (None, 0, None)


async def test_what_a_link_hands_out_is_as_safe_as_a_download(client, file):
    """DL-01, DL-09, I18; a link may end, so that nothing but the reader may keep its file."""
    path, _ = await share(client, file)
    direct, linked = await client.request("GET", f"{file}/content"), await client.request("GET", path)
    own = {"Set-Cookie", "Date", "Vary"}
    assert {n: v for n, v in linked.headers.items() if n not in own} == {
        n: v for n, v in direct.headers.items() if n not in own
    }
    assert linked.headers["Content-Disposition"].startswith("attachment; ")
    assert linked.headers["Referrer-Policy"] == "no-referrer"


async def test_a_public_cache_of_downloads_is_none_of_links(tmp_path):
    async with running(tmp_path, WebConfig(share_keys=(KEY,), download_cache_control="public, max-age=600")) as rig:
        path, _ = await share(rig.client, await uploaded(rig.client))
        assert (await rig.client.request("GET", path)).headers["Cache-Control"] == "private, no-cache"


async def test_head_is_get_without_the_bytes_and_counts_nothing(client, file):
    path, made = await share(client, file, max_downloads=1)
    head = await client.request("HEAD", path)
    assert (await shown(client, file, made))["downloads"] == 0
    get = await client.request("GET", path)
    assert (head.status, get.status) == (200, 200)
    assert {n: v for n, v in get.headers.items() if n not in ("Set-Cookie", "Date")} == {
        n: v for n, v in head.headers.items() if n != "Date"
    }


async def test_ranges_and_conditions_work_by_a_link(client, file):
    path, made = await share(client, file)
    part = await client.request("GET", path, {"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, DATA[10:20])
    counted = (await shown(client, file, made))["downloads"]
    assert (await client.request("GET", path, {"If-None-Match": part.headers["ETag"]})).status == 304
    assert (await client.request("GET", path, {"Range": f"bytes={len(DATA)}-"})).status == 416
    assert (await client.request("GET", path, {"If-Match": '"x"'})).status == 412
    assert (await shown(client, file, made))["downloads"] == counted


async def test_methods_that_a_link_does_not_have_are_405(client, file):
    path, _ = await share(client, file)
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        answer = await client.request(method, path)
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, POST")


async def test_no_other_text_opens_a_file(client, file):
    """AT-06: each character changed, all but the first and last ones, more of it, encoded, and as the id alone."""
    path, made = await share(client, file)
    address = path.removeprefix(f"{SHARED}/")
    alphabet = string.ascii_letters + string.digits + "-_"
    forged = [
        address[:place] + alphabet[(alphabet.index(was) + 1) % 64] + address[place + 1 :]
        for place, was in enumerate(address)
    ]
    forged += [address[1:], address[:-1], address + "A", address.swapcase(), made["id"], made["id"] * 2, "%00", "x"]
    for each in forged:
        assert await is_unknown(client, f"{SHARED}/{each}"), each


async def test_nothing_in_the_query_makes_a_link_last_longer(rig, client, file):
    """AT-06: its end is known to the database alone."""
    path, _ = await share(client, file, expires_at=after(60))
    assert (await client.request("GET", f"{path}?exp=9&exp=9")).status == 200
    rig.clock.now += 61
    assert await is_unknown(client, f"{path}?exp=9999999999&expires_at={after(600)}")


async def test_whatever_ends_a_link_it_is_answered_as_one_that_never_was(rig, client, file):
    """AT-06, DL-08: revoked, over, used up, its file deleted or expired or lost to a failure."""
    revoked, made = await share(client, file)
    assert (await ask(client, "DELETE", f"{file}/shares/{made['id']}"))[0] == 204
    assert await is_unknown(client, revoked)

    used_up, _ = await share(client, file, max_downloads=1)
    assert (await client.request("GET", used_up)).status == 200
    assert await is_unknown(client, used_up)

    over, _ = await share(client, file, expires_at=after(60), password=SECRET)
    rig.clock.now += 61
    assert await is_unknown(client, over)
    assert await is_unknown(client, over, **basic(SECRET))

    orphan, _ = await share(client, file, password=SECRET)
    assert (await ask(client, "DELETE", file))[0] == 204
    assert await is_unknown(client, orphan)
    assert (await client.request("POST", orphan, FORM, b"password=x")).status == 404
    assert await is_unknown(client, orphan, **BROWSER)


async def test_a_running_download_survives_the_end_of_its_link(rig, client):
    data = bytes(8 * MIB)
    file = await uploaded(client, data)
    path, made = await share(client, file)
    async with client.connect() as connection:
        connection.send_head("GET", path, {})
        head = await connection._read_head()
        assert head.status == 200
        assert (await ask(client, "DELETE", f"{file}/shares/{made['id']}"))[0] == 204
        assert await connection.some(len(data)) == data


async def test_one_download_is_counted_once_however_many_ranges_it_takes(client, file):
    """The session that comes with the first bytes is what tells that requests are of one download."""
    path, made = await share(client, file, max_downloads=1)
    first = await client.request("GET", path, {"Range": "bytes=0-99"})
    assert (first.status, first.body) == (206, DATA[:100])
    session = session_of(first)
    for start in range(100, 1000, 100):
        part = await client.request("GET", path, {"Range": f"bytes={start}-{start + 99}", **session})
        assert (part.status, part.body) == (206, DATA[start : start + 100])
        assert "Set-Cookie" not in part.headers
    assert (await client.request("GET", path, session)).body == DATA
    assert (await shown(client, file, made))["downloads"] == 1
    assert await is_unknown(client, path, Range="bytes=100-199")


async def test_a_session_is_of_one_link_for_some_time_and_cannot_be_made_up(client, file):
    path, made = await share(client, file, max_downloads=1)
    other, theirs = await share(client, file, max_downloads=1)
    session = session_of(await client.request("GET", path))
    assert (await client.request("GET", path, session)).status == 200
    name, _, value = session["Cookie"].partition("=")
    assert name == COOKIE
    keys = ShareKeys([KEY])
    now = datetime.now(UTC).timestamp()
    for bad in (
        "c" + value[1:],
        value[0] + "9" + value[1:],
        value[:-1] + ("A" if value[-1] != "A" else "B"),
        keys.session(ShareId(made["id"]), Proven.DOWNLOAD, now - 1),
        keys.session(ShareId(made["id"]), Proven.KNOWS, now + 60),
        keys.session(ShareId(theirs["id"]), Proven.DOWNLOAD, now + 60),
        ShareKeys([NEXT_KEY]).session(ShareId(made["id"]), Proven.DOWNLOAD, now + 60),
    ):
        assert await is_unknown(client, path, Cookie=f"{COOKIE}={bad}"), bad
    assert (await client.request("GET", other, session)).status == 200
    assert (await shown(client, file, theirs))["downloads"] == 1


async def test_the_cookie_is_for_the_link_alone_and_out_of_reach_for_scripts(tmp_path):
    config = WebConfig(share_keys=(KEY,), public_url="https://files.example/prefix", share_session=60.0)
    async with running(tmp_path, config) as rig:
        upload = (await rig.client.create(5)).removeprefix("/prefix")
        await rig.client.patch(upload, 0, b"hello")
        _, made = await share(rig.client, in_api(upload))
        assert made["url"].startswith(f"https://files.example/prefix{SHARED}/")
        path = made["url"].removeprefix("https://files.example/prefix")
        cookie = (await rig.client.request("GET", path)).headers["Set-Cookie"]
        _, *attributes = cookie.split("; ")
        assert attributes == [f"Path=/prefix{path}", "Max-Age=60", "HttpOnly", "SameSite=Lax", "Secure"]


async def test_of_twenty_clients_at_once_as_many_download_as_may(client, file):
    path, made = await share(client, file, max_downloads=3)
    answers = await asyncio.gather(*[client.request("GET", path) for _ in range(20)])
    assert sorted(answer.status for answer in answers) == [200] * 3 + [404] * 17
    assert all(answer.body == DATA for answer in answers if answer.status == 200)
    assert (await shown(client, file, made))["downloads"] == 3


async def test_what_the_store_fails_to_give_is_no_download(tmp_path):
    async with running(tmp_path, CONFIG) as rig:
        file = await uploaded(rig.client)
        path, made = await share(rig.client, file, max_downloads=1)
        await replace_object(rig, file, b"other")
        assert (await rig.client.request("GET", path)).status == 502
        assert (await shown(rig.client, file, made))["downloads"] == 0


async def test_an_empty_file_is_counted_too(client):
    file = await uploaded(client, b"")
    path, _ = await share(client, file, max_downloads=1)
    assert (await client.request("GET", path)).status == 200
    assert await is_unknown(client, path)


async def test_a_redirect_counts_as_a_download_and_a_redirected_head_does_not(tmp_path):
    """DL-03: the same name, type and five minutes as for everybody else."""
    async with on_s3(tmp_path, WebConfig(share_keys=(KEY,), downloads="redirect")) as (rig, _):
        file = await uploaded(rig.client)
        path, made = await share(rig.client, file, max_downloads=1)
        assert (await rig.client.request("HEAD", path)).status == 302
        assert (await shown(rig.client, file, made))["downloads"] == 0
        answer = await rig.client.request("GET", path)
        assert (answer.status, answer.headers["Referrer-Policy"]) == (302, "no-referrer")
        assert "X-Amz-Signature" in answer.headers["Location"]
        assert await is_unknown(rig.client, path)


async def test_a_download_host_of_its_own_is_where_links_lead(tmp_path):
    config = WebConfig(share_keys=(KEY,), download_url="https://dl.example")
    async with running(tmp_path, config) as rig:
        _, made = await share(rig.client, await uploaded(rig.client))
        path = made["url"].removeprefix("https://dl.example")
        answer = await rig.client.request("GET", path)
        assert (answer.status, answer.headers["Location"]) == (302, made["url"])
        assert (await rig.client.request("GET", path, {"Host": "dl.example"})).status == 200


async def test_behind_a_cdn_links_need_its_token_too(tmp_path):
    config = WebConfig(share_keys=(KEY,), download_url="https://dl.example", origin_tokens=("o" * 32,))
    async with running(tmp_path, config) as rig:
        _, made = await share(rig.client, await uploaded(rig.client), max_downloads=1)
        path = made["url"].removeprefix("https://dl.example")
        forged = "/s/" + "A" * len(path.removeprefix("/s/"))
        refused = [await rig.client.request("GET", each, {"Host": "dl.example"}) for each in (path, forged)]
        assert [(answer.status, answer.body) for answer in refused] == [(403, refused[0].body)] * 2
        named = {"Host": "dl.example", "X-Origin-Token": "o" * 32}
        answer = await rig.client.request("GET", path, named)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "private, no-cache"), "one download was left"


async def test_a_link_with_a_password_wants_it(client, file):
    path, made = await share(client, file, password=SECRET, max_downloads=1)
    assert made["has_password"] is True
    assert SECRET not in json.dumps(made)
    for fields in ({}, basic("wrong"), basic(""), {"Authorization": "Bearer x"}):
        answer = await client.request("GET", path, fields)
        assert (answer.status, answer.headers["WWW-Authenticate"].split(" ")[0]) == (401, "Basic")
        assert NAME.encode() not in answer.body
    assert (await client.request("GET", path, {"Authorization": "Basic !"})).status == 400
    answer = await client.request("GET", path, basic(SECRET))
    assert (answer.status, answer.body) == (200, DATA)
    assert (await client.request("GET", path, session_of(answer))).status == 200, "without the password again"
    assert await is_unknown(client, path, **basic(SECRET))


async def test_a_password_is_the_same_however_a_keyboard_composes_it(client, file):
    path, _ = await share(client, file, password="Caf\u00e9")
    assert (await client.request("GET", path, basic("Cafe\u0301"))).status == 200


async def test_a_browser_is_asked_by_a_page_and_downloads_after_it(client, file):
    path, made = await share(client, file, password=SECRET, max_downloads=1)
    page = await client.request("GET", path, BROWSER)
    assert page.status == 401
    assert b'<form method="post">' in page.body
    assert "script" not in page.headers["Content-Security-Policy"]
    assert not page.headers["WWW-Authenticate"].startswith("Basic")
    assert NAME.encode() not in page.body
    wrong = await client.request("POST", path, {**BROWSER, **FORM}, b"password=no")
    assert (wrong.status, b"not the password" in wrong.body) == (401, True)
    right = await client.request("POST", path, {**BROWSER, **FORM}, b"password=open+sesame")
    assert (right.status, b"refresh" in right.body) == (200, True)
    assert (await shown(client, file, made))["downloads"] == 0
    answer = await client.request("GET", path, {**BROWSER, **session_of(right)})
    assert (answer.status, answer.body) == (200, DATA)
    assert session_of(answer) != session_of(right)
    assert await is_unknown(client, path, **session_of(right))


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        ({"Content-Type": "text/plain"}, b"password=x", 415),
        (FORM, b"p" * 5000, 413),
        (FORM, b"", 401),
        (FORM, b"\xff\xfe=&&=", 401),
    ],
)
async def test_a_form_that_is_none_opens_nothing(client, file, fields, body, status):
    path, _ = await share(client, file, password=SECRET)
    assert (await client.request("POST", path, fields, body)).status == status
    page = await client.request("POST", path, {**fields, **BROWSER}, body)
    assert (page.status, page.headers["Content-Type"]) == (status, "text/html; charset=utf-8")


@pytest.mark.slow
async def test_passwords_cannot_be_guessed_at_any_speed(rig, client, file):
    """The bound is the link's: it counts for all clients together. Who is in already stays in."""
    path, _ = await share(client, file, password=SECRET)
    inside = session_of(await client.request("GET", path, basic(SECRET)))
    guesses = await asyncio.gather(*[client.request("GET", path, basic(f"guess {n}")) for n in range(MOST_TRIES + 5)])
    assert sorted(answer.status for answer in guesses) == [401] * MOST_TRIES + [429] * 5
    barred = await client.request("GET", path, basic(SECRET))
    assert (barred.status, "Retry-After" in barred.headers) == (429, True)
    assert (await client.request("POST", path, {**FORM, **BROWSER}, b"password=open+sesame")).status == 429
    assert (await client.request("GET", path, inside)).status == 200
    rig.clock.now += TRIES_WINDOW + 1
    assert (await client.request("GET", path, basic(SECRET))).status == 200


@pytest.mark.slow
async def test_right_passwords_use_up_no_tries(client, file):
    path, _ = await share(client, file, password=SECRET)
    for _ in range(MOST_TRIES + 2):
        assert (await client.request("HEAD", path, basic(SECRET))).status == 200


async def test_a_key_that_is_replaced_is_good_until_it_is_taken_out(tmp_path):
    async with running(tmp_path, CONFIG) as rig:
        file = await uploaded(rig.client)
        old, made = await share(rig.client, file)
    async with running(tmp_path, WebConfig(share_keys=(NEXT_KEY, KEY))) as rig:
        assert (await rig.client.request("GET", old)).status == 200
        new = (await shown(rig.client, file, made))["url"]
        assert not new.endswith(old)
        assert (await rig.client.request("GET", new.split("gateway.test")[1])).status == 200
    async with running(tmp_path, WebConfig(share_keys=(NEXT_KEY,))) as rig:
        assert await is_unknown(rig.client, old)
        assert (await rig.client.request("GET", new.split("gateway.test")[1])).status == 200


async def test_without_a_key_there_are_no_links(tmp_path):
    async with running(tmp_path) as rig:
        file = await uploaded(rig.client)
        for method, path, body in (("GET", "", None), ("POST", "", {}), ("DELETE", f"/{'A' * 24}", None)):
            status, problem = await ask(rig.client, method, f"{file}/shares{path}", body)
            assert (status, problem["code"]) == (403, "sharing_off")
        assert (await unknown(rig.client)).status == 404


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"expires_at": after(-1)}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2027-06-01T00:00:00"}, "expires_at"),
        ({"password": ""}, "password"),
        ({"password": "a\nb"}, "password"),
        ({"password": "x" * 129}, "password"),
        ({"max_downloads": 0}, "max_downloads"),
        ({"max_downloads": "1"}, "max_downloads"),
        ({"max_downloads": True}, "max_downloads"),
        ({"max_downloads": 10**10}, "max_downloads"),
        ({"maxdownloads": 1}, "maxdownloads"),
    ],
)
async def test_a_wish_that_means_nothing_is_named_and_makes_no_link(client, file, wanted, field):
    status, problem = await ask(client, "POST", f"{file}/shares", wanted)
    assert (status, problem["field"]) == (400, field)
    assert (await ask(client, "GET", f"{file}/shares"))[1] == {"shares": []}


async def test_only_a_finished_file_is_shared_and_a_deleted_one_is_gone(client):
    path = "/api/v1/files/" + (await client.create(10)).rpartition("/")[2]
    assert (await ask(client, "POST", f"{path}/shares", {}))[0] == 409
    await ask(client, "DELETE", path)
    assert (await ask(client, "POST", f"{path}/shares", {}))[0] == 410
    assert (await ask(client, "POST", f"/api/v1/files/{'A' * 24}/shares", {}))[0] == 404


async def test_a_file_has_a_bounded_number_of_links(rig, client, file):
    for _ in range(MOST_OF_A_FILE):
        await share(client, file)
    status, problem = await ask(client, "POST", f"{file}/shares", {})
    assert (status, problem["code"]) == (409, "too_many_shares")


async def test_links_belong_to_the_owner_of_the_file(tmp_path):
    """AT-02: others are told what they would be told of a file or a link that is not there."""
    async with guarded(tmp_path, WebConfig(is_open=False, share_keys=(KEY,))) as here:
        alice = await here.who()
        upload = await here.create(alice, 3)
        await here.client.patch(upload, 0, b"abc", alice)
        file = "/api/v1/files/" + upload.rpartition("/")[2]
        status, made = await ask(here.client, "POST", f"{file}/shares", {}, **alice)
        assert status == 201
        assert made["created_by"].startswith("token:")
        for stranger in (BOB, EVE):
            who = await here.who(stranger)
            for method, body in (("GET", None), ("POST", {})):
                assert (await ask(here.client, method, f"{file}/shares", body, **who))[0] == 404
            own = await here.create(who, 3)
            await here.client.patch(own, 0, b"abc", who)
            for their_file in (file, "/api/v1/files/" + own.rpartition("/")[2]):
                assert (await ask(here.client, "DELETE", f"{their_file}/shares/{made['id']}", **who))[0] == 404
        reader = await here.who(ALICE, frozenset(Permission) - {Permission.SHARE})
        assert (await ask(here.client, "POST", f"{file}/shares", {}, **reader))[0] == 403
        path = "/" + made["url"].split("/", 3)[3]
        assert (await here.client.request("GET", path)).body == b"abc"
        assert (await here.client.request("GET", path, {"Authorization": "Bearer nonsense"})).body == b"abc"


async def test_no_log_shows_the_address_of_a_link_or_a_password(rig, client, file, monkeypatch):
    """AT-12, I19: not when a request fails for reasons that nobody foresaw, either."""
    path, _ = await share(client, file, password=SECRET)
    with structlog.testing.capture_logs(processors=[_redacted]) as logs:
        await client.request("GET", path, basic(SECRET))
        monkeypatch.setattr(rig.files, "read", None)
        assert (await client.request("GET", path, basic(SECRET))).status == 500
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["request.failed"]
    written = repr(logs)
    assert path.removeprefix(f"{SHARED}/") not in written
    assert SECRET not in written
    assert basic(SECRET)["Authorization"] not in written


def _redacted(logger, method, event):
    return redact(logger, method, event)


async def test_a_database_that_is_away_is_503_and_no_download(rig, client, file):
    path, _ = await share(client, file)
    await rig.database.close()
    assert (await client.request("GET", path)).status == 503
    assert (await unknown(client)).status == 404, "what is not signed is not asked for"


async def test_a_hostile_name_is_saved_under_itself(client):
    """I18."""
    file = await uploaded(client, b"x", METADATA)
    path, _ = await share(client, file)
    told = (await client.request("GET", path)).headers["Content-Disposition"]
    assert told.isascii()
    assert "filename*=UTF-8''" in told
