"""The JSON API of files over the wire."""

from __future__ import annotations

import base64
import json
import re

import pytest
from awscrt.checksums import crc64nvme

from tests.contract.database_rig import a_new_upload
from tests.wire.client import V
from tests.wire.rig import running
from tusgate.core.access import Principal
from tusgate.core.model import Scope, State
from tusgate.settings.model import API_PATH
from tusgate.web.api.door import LARGEST_BODY, ROOT
from tusgate.web.api.models import File, FilePage, ProblemDetails
from tusgate.web.config import WebConfig
from tusgate.web.gate import OpenToAll

FILES = "/api/v1/files"
JSON = {"Content-Type": "application/json"}
UNKNOWN = f"{FILES}/unknown-upload-0123456789"
NAME = "Größe \u202egnp.html"
METADATA = f"filename {base64.b64encode(NAME.encode()).decode()},filetype dGV4dC9odG1s,odd /w==,empty"


async def uploaded(client, data=b"hello", metadata=METADATA):
    """Upload a file and return its path in the API."""
    path = await client.create(len(data), Upload_Metadata=metadata)
    if data:
        assert (await client.patch(path, 0, data)).status == 204
    return in_api(path)


def in_api(path):
    return f"{FILES}/{path.rsplit('/', 1)[1]}"


async def ask(client, method, path, body=None, **fields):
    """Return the status and the parsed body of an answer."""
    raw = None if body is None else json.dumps(body).encode()
    answer = await client.request(method, path, {**(JSON if body is not None else {}), **fields}, raw)
    return answer.status, json.loads(answer.body) if answer.body else None


async def listed(client, query=""):
    """Return the ids of the files that a listing shows."""
    status, page = await ask(client, "GET", FILES + query)
    assert status == 200, page
    return [each["id"] for each in FilePage.model_validate(page).model_dump()["files"]]


async def test_a_finished_file_shows_all_that_is_known_of_it(client):
    path = await uploaded(client)
    status, shown = await ask(client, "GET", path)
    assert status == 200
    file = File.model_validate(shown)
    assert (file.state, file.size, file.offset, file.created_via) == ("complete", 5, 5, "tus")
    assert (file.filename, file.content_type) == ("Größe gnp.html", "text/html")
    assert file.metadata == {"filename": NAME, "filetype": "text/html", "odd": "\ufffd", "empty": ""}
    assert file.crc64nvme == base64.b64encode(crc64nvme(b"hello").to_bytes(8, "big")).decode()
    assert (file.owner, file.tenant, file.reason, file.expires_at) == ("", "default", None, None)
    assert shown["created_at"] <= shown["completed_at"] <= shown["updated_at"]
    assert file.links.self == f"http://gateway.test{path}"
    assert file.links.content == f"http://gateway.test{path}/content"
    assert file.links.upload == f"http://gateway.test{path.replace(FILES, '/files')}"
    assert shown["created_at"].endswith("Z")


async def test_an_upload_on_its_way_is_a_file_too(client):
    path = in_api(await client.create(None))
    _, shown = await ask(client, "GET", path)
    assert (shown["state"], shown["size"], shown["offset"]) == ("uploading", None, 0)
    assert (shown["metadata"], shown["etag"], shown["crc64nvme"]) == ({}, None, None)
    assert shown["expires_at"] is not None
    assert shown["links"]["content"] is None


async def test_head_is_get_without_the_body(client):
    path = await uploaded(client)
    for each in (path, FILES, f"{path}/content", "/api/v1/openapi.json", "/api/v1/reference"):
        async with client.connect() as connection:
            answers = []
            for method in ("HEAD", "GET", "HEAD"):  # on one connection: a body too many would be the next answer
                connection.send_head(method, each, {})
                answers.append(await connection.answer(to_head=method == "HEAD"))
            assert [answer.status for answer in answers] == [200] * 3
            assert int(answers[0].headers["Content-Length"]) == len(answers[1].body) > 0
            told = [[item for item in answer.headers.items() if item[0] != "Date"] for answer in answers]
            assert told[0] == told[1] == told[2]


@pytest.mark.parametrize("path", [UNKNOWN, f"{UNKNOWN}/content", "/api/v1/x", f"{FILES}?limit=0"])
async def test_a_refusal_of_head_has_no_body_either(client, path):
    async with client.connect() as connection:
        for method in ("HEAD", "GET", "HEAD", "GET"):
            connection.send_head(method, path, {})
            answer = await connection.answer(to_head=method == "HEAD")
            assert answer.status in (400, 404)


async def test_a_listing_goes_from_page_to_page(rig, client):
    ids = []
    for number in range(7):
        rig.clock.now += number % 2
        ids.append((await uploaded(client, b"%d" % number)).rsplit("/", 1)[1])
    whole = await listed(client)
    assert sorted(whole) == sorted(ids)
    walked, query, pages = [], "?limit=3", 0
    while query:
        _, page = await ask(client, "GET", FILES + query)
        walked += [each["id"] for each in page["files"]]
        query = f"?limit=3&cursor={page['next_cursor']}" if page["next_cursor"] else ""
        pages += 1
    assert (walked, pages) == (whole, 3)


async def test_a_listing_shows_what_its_filters_want(rig, client):
    html, unfinished = await uploaded(client), in_api(await client.create(9))
    rig.clock.now += 10
    png = await uploaded(client, b"1", "filename YS5QTkc=,filetype aW1hZ2UvcG5n")
    html, unfinished, png = (path.rsplit("/", 1)[1] for path in (html, unfinished, png))
    assert await listed(client, "?state=uploading&state=sealed") == [unfinished]
    assert await listed(client, "?content_type=image/*") == [png]
    assert await listed(client, "?content_type=Text/Html") == [html]
    assert await listed(client, "?name_contains=GR%C3%96%C3%9F") == [html]
    assert await listed(client, "?name_prefix=a.p&created_via=tus&limit=1") == [png]
    assert await listed(client, "?created_via=rufh") == []
    assert await listed(client, "?created_from=2027-01-15T08:00:05Z") == [png]
    assert {*await listed(client, "?created_before=2027-01-15T09:00:05%2B01:00")} == {html, unfinished}


async def test_expired_and_deleted_files_are_listed_when_asked_for(rig, client):
    expired, deleted = in_api(await client.create(9)), await uploaded(client)
    await rig.expire()
    assert (await ask(client, "DELETE", deleted))[0] == 204
    assert await listed(client) == []
    assert await listed(client, "?state=expired") == [expired.rsplit("/", 1)[1]]
    assert await listed(client, "?state=terminated") == [deleted.rsplit("/", 1)[1]]
    assert (await ask(client, "GET", expired))[1]["state"] == "expired"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=0", "limit"),
        ("?limit=201", "limit"),
        ("?limit=x", "limit"),
        ("?limit=1&limit=2", "limit"),
        ("?stat=complete", "stat"),
        ("?state=deleted", "state.0"),
        ("?state=", "state.0"),
        ("?cursor=x", "cursor"),
        ("?cursor=%F0%9F%98%80", "cursor"),
        ("?cursor=MTIz", "cursor"),
        (f"?cursor={base64.urlsafe_b64encode(b'9' * 17 + b'.unknown-upload-0123456789').decode()}&limit=0", "limit"),
        ("?created_from=yesterday", "created_from"),
        ("?created_from=2026-01-01T00:00:00", "created_from"),
        ("?created_before=0001-01-01T00:00:00Z", "created_before"),
        ("?created_before=99999-01-01T00:00:00Z", "created_before"),
        ("?content_type=png", "content_type"),
        ("?content_type=*/*", "content_type"),
        ("?name_contains=", "name_contains"),
        ("?name_contains=%00", "name_contains"),
        (f"?name_prefix={'x' * 256}", "name_prefix"),
        ("?created_via=ftp", "created_via"),
    ],
)
async def test_a_parameter_that_means_nothing_is_named(client, query, field):
    status, problem = await ask(client, "GET", FILES + query)
    assert status == 400
    assert ProblemDetails.model_validate(problem).code == "invalid_request"
    assert problem["field"] == field
    assert problem["detail"].startswith(f"{field}: expected ")


async def test_any_cursor_that_is_one_only_moves_the_place(client):
    path = await uploaded(client)
    far = base64.urlsafe_b64encode(b"9" * 17 + b".unknown-upload-0123456789").decode().rstrip("=")
    assert await listed(client, f"?cursor={far}") == [path.rsplit("/", 1)[1]]
    assert await listed(client, f"?cursor={base64.urlsafe_b64encode(b'0.' + b'x' * 22).decode()}") == []


async def test_a_file_is_renamed_and_its_upload_goes_on(client):
    upload = await client.create(5, Upload_Metadata=METADATA)
    path = in_api(upload)
    status, shown = await ask(client, "PATCH", path, {"filename": "b.png", "content_type": "image/png"})
    assert (status, shown["filename"], shown["content_type"]) == (200, "b.png", "image/png")
    assert (await client.patch(upload, 0, b"hello")).status == 204
    status, shown = await ask(
        client, "PATCH", path, {"content_type": None}, **{"Content-Type": "application/merge-patch+json"}
    )
    assert (status, shown["filename"], shown["content_type"]) == (200, "b.png", None)
    assert (await client.head(upload)).headers["Upload-Metadata"] == METADATA


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, "body"),
        ({"filename": "a/b"}, "filename"),
        ({"filename": "a\\b"}, "filename"),
        ({"filename": ".."}, "filename"),
        ({"filename": ""}, "filename"),
        ({"filename": " a"}, "filename"),
        ({"filename": "a\u0000"}, "filename"),
        ({"filename": "a\u202eb"}, "filename"),
        ({"filename": "x" * 256}, "filename"),
        ({"filename": 7}, "filename"),
        ({"content_type": "png"}, "content_type"),
        ({"content_type": "image/png\r\nX: y"}, "content_type"),
        ({"state": "complete"}, "state"),
        ({"filename": "a", "size": 1}, "size"),
        ([], "body"),
    ],
)
async def test_a_change_that_means_nothing_is_named_and_changes_nothing(client, change, field):
    path = await uploaded(client)
    before = await ask(client, "GET", path)
    status, problem = await ask(client, "PATCH", path, change)
    assert (status, problem["field"]) == (400, field)
    assert await ask(client, "GET", path) == before


@pytest.mark.parametrize(
    ("body", "fields", "status"),
    [
        (b"{", JSON, 400),
        (b'{"filename": "\\ud800"}', JSON, 400),
        (b"\xff\xfe", JSON, 400),
        (b"[" * 5000, JSON, 400),
        (b'{"filename": "a"}', {"Content-Type": "text/plain"}, 415),
        (b'{"filename": "a"}', {}, 415),
        (b'{"filename": "a"}', {**JSON, "Content-Encoding": "gzip"}, 415),
        (b" " * (LARGEST_BODY + 1), JSON, 413),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_no_json_of_ours_is_refused(client, body, fields, status, chunked):
    path = await uploaded(client)
    answer = await client.request("PATCH", path, fields, body, chunked=chunked)
    assert answer.status == status


async def test_a_deleted_file_is_gone_for_good(rig, client):
    """DL-08, I9: object, rows and URL; by the same step as a DELETE of tus."""
    path = await uploaded(client, b"x" * 100_000)
    assert (await client.request("DELETE", path)).status == 204
    for method, address in (
        ("DELETE", path),
        ("GET", path),
        ("PATCH", path),
        ("GET", f"{path}/content"),
        ("HEAD", f"{path}/content"),
    ):
        body = {"filename": "a"} if method == "PATCH" else None
        status, problem = await ask(client, method, address, body)
        assert status == 410
        assert method == "HEAD" or problem["code"] == "gone"
    assert (await client.head(path.replace(FILES, "/files"))).status == 410
    (garbage,) = await rig.database.due_garbage(10, 0.0)
    await rig.store.delete_objects([garbage.key])
    assert not [key async for key in rig.store.list_objects()]


async def test_a_tus_client_that_still_writes_is_cut_off_by_a_deletion(rig, client):
    """I9."""
    path = await client.create(1000)
    async with client.connect() as connection:
        connection.send_head(
            "PATCH",
            path,
            {**V, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream", "Content-Length": "1000"},
        )
        connection.up.write(b"x" * 10)
        await rig.until_taken_in(10)
        assert (await client.request("DELETE", in_api(path))).status == 204
        assert (await connection.answer()).status == 410


async def test_many_files_are_deleted_at_once(client):
    first, second, other = [(await uploaded(client)).rsplit("/", 1)[1] for _ in range(3)]
    unknown = UNKNOWN.rsplit("/", 1)[1]
    assert (await ask(client, "DELETE", f"{FILES}/{second}"))[0] == 204
    status, report = await ask(client, "POST", f"{FILES}/delete", {"ids": [first, second, unknown, first]})
    assert status == 200
    assert report == {
        "results": [
            {"id": first, "outcome": "deleted"},
            {"id": second, "outcome": "gone"},
            {"id": unknown, "outcome": "not_found"},
        ]
    }
    assert await listed(client) == [other]


@pytest.mark.parametrize("ids", [[], ["x"], ["../../etc/passwd" * 2], [UNKNOWN.rsplit("/", 1)[1]] * 101, "x", [7]])
async def test_a_list_of_files_that_is_none_deletes_nothing(client, ids):
    path = await uploaded(client)
    status, problem = await ask(client, "POST", f"{FILES}/delete", {"ids": ids})
    assert status == 400
    assert problem["field"].startswith("ids")
    assert await listed(client) == [path.rsplit("/", 1)[1]]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", UNKNOWN, 404),
        ("GET", f"{UNKNOWN}/content", 404),
        ("DELETE", UNKNOWN, 404),
        ("GET", f"{FILES}/short", 404),
        ("GET", f"{FILES}/", 404),
        ("GET", f"{FILES}/..%2f..%2fetc/content", 404),
        ("GET", f"{FILES}/{{id}}", 404),
        ("GET", f"{UNKNOWN}/content/more", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/folders", 404),
        ("POST", FILES, 405),
        ("PUT", UNKNOWN, 405),
        ("POST", f"{UNKNOWN}/content", 405),
        ("GET", f"{FILES}/delete", 405),
    ],
)
async def test_what_is_not_there_is_a_problem(client, method, path, status):
    answer = await client.request(method, path)
    problem = ProblemDetails.model_validate_json(answer.body)
    assert (answer.status, problem.status) == (status, status)
    assert ("Allow" in answer.headers) == (status == 405)


async def test_options_tell_methods_and_a_preflight_is_allowed(start):
    client = (await start(WebConfig(cors_origins=("https://page.test",)))).client
    answer = await client.request("OPTIONS", UNKNOWN)
    assert (answer.status, answer.headers["Allow"]) == (204, "HEAD, GET, PATCH, DELETE, OPTIONS")
    page = {"Origin": "https://page.test"}
    preflight = await client.request("OPTIONS", UNKNOWN, {**page, "Access-Control-Request-Method": "PATCH"})
    assert {"PATCH", "DELETE"} <= {*preflight.headers["Access-Control-Allow-Methods"].split(", ")}
    assert {"Content-Type", "Range", "If-Match"} <= {*preflight.headers["Access-Control-Allow-Headers"].split(", ")}
    path = await uploaded(client)
    for each in (path, f"{path}/content", UNKNOWN, f"{FILES}?limit=0", "/api/v1/x"):
        answer = await client.request("GET", each, page)
        assert answer.headers["Access-Control-Allow-Origin"] == "https://page.test"
        assert {"ETag", "Content-Range", "Content-Disposition"} <= {
            *answer.headers["Access-Control-Expose-Headers"].split(", ")
        }
    stranger = await client.request("GET", path, {"Origin": "https://evil.test"})
    assert stranger.status == 403
    assert "Access-Control-Allow-Origin" not in stranger.headers


async def test_no_page_reads_files_without_credentials_unless_its_origin_is_listed(client):
    """V33: `*` is for uploads. In open mode it would let any page list and delete what a browser can reach."""
    path = await uploaded(client)
    for method, each in (("GET", FILES), ("GET", f"{path}/content"), ("DELETE", path), ("OPTIONS", path)):
        answer = await client.request(method, each, {"Origin": "https://evil.test"})
        assert answer.status == 403
        assert "Access-Control-Allow-Origin" not in answer.headers
    own = await client.request("GET", FILES, {"Origin": "http://gateway.test"})
    assert own.status == 200
    assert len(json.loads(own.body)["files"]) == 1


class EverybodyIsAlice(OpenToAll):
    async def identify(self, _presented):
        return Principal(scope=Scope("acme", "alice"))


def as_alice(_database):
    return EverybodyIsAlice()


async def test_with_credentials_any_page_may_use_the_api(tmp_path):
    async with running(tmp_path, identity=as_alice) as rig:
        answer = await rig.client.request("GET", FILES, {"Origin": "https://page.test"})
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, "*")
        await rig.database.create(a_new_upload(scope=Scope("acme", "bob")))
        await rig.database.create(a_new_upload(scope=Scope("acme", "alice")))
        _, page = await ask(rig.client, "GET", FILES)
        assert [(each["tenant"], each["owner"]) for each in page["files"]] == [("acme", "alice")]


async def test_another_owners_file_is_as_unknown_as_one_that_never_was(tmp_path):
    """I13: the same answers but for the date."""
    async with running(tmp_path, identity=as_alice) as rig:
        theirs = await rig.database.create(a_new_upload(scope=Scope("acme", "bob")))
        for method, tail in (("GET", ""), ("HEAD", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/content")):
            answers = []
            for file_id in (theirs.id, "a" * len(theirs.id)):
                body = b'{"filename": "a"}' if method == "PATCH" else None
                answer = await rig.client.request(method, f"{FILES}/{file_id}{tail}", JSON, body)
                told = {name: value for name, value in answer.headers.items() if name != "Date"}
                answers.append((answer.status, told, answer.body))
            assert answers[0] == answers[1]
            assert answers[0][0] == 404
        status, report = await ask(rig.client, "POST", f"{FILES}/delete", {"ids": [theirs.id]})
        assert (status, report["results"][0]["outcome"]) == (200, "not_found")
        assert await rig.database.get(theirs.scope, theirs.id) == theirs


async def test_the_document_describes_every_operation_and_nothing_is_missing_in_it(client):
    document = json.loads((await client.request("GET", "/api/v1/openapi.json")).body)
    assert document["openapi"].startswith("3.1")
    schemas = document["components"]["schemas"]
    references = {*re.findall(r'"\$ref": ?"([^"]+)"', json.dumps(document))}
    assert references
    assert {reference.removeprefix("#/components/schemas/") for reference in references} <= {*schemas}
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == {
        ("/api/v1/files", "get"),
        ("/api/v1/files/delete", "post"),
        ("/api/v1/files/{id}", "get"),
        ("/api/v1/files/{id}", "patch"),
        ("/api/v1/files/{id}", "delete"),
        ("/api/v1/files/{id}/content", "get"),
        ("/api/v1/files/{id}/processing", "post"),
        ("/api/v1/usage", "get"),
        ("/api/v1/s3-events", "post"),
        ("/api/v1/uploads", "post"),
        ("/api/v1/uploads/instant", "post"),
        ("/api/v1/uploads/instant/challenge", "post"),
        ("/api/v1/fingerprints/{algorithm}/{value}", "get"),
        ("/api/v1/uploads/{id}", "get"),
        ("/api/v1/uploads/{id}", "delete"),
        ("/api/v1/uploads/{id}/plan", "put"),
        ("/api/v1/uploads/{id}/parts", "get"),
        ("/api/v1/uploads/{id}/urls", "post"),
        ("/api/v1/uploads/{id}/complete", "post"),
        ("/api/v1/files/{id}/shares", "get"),
        ("/api/v1/files/{id}/shares", "post"),
        ("/api/v1/files/{id}/shares/{share}", "delete"),
        ("/api/v1/files/{id}/accesses", "get"),
        ("/api/v1/accesses", "get"),
    }
    for path, method in described:
        operation = document["paths"][path][method]
        assert operation["summary"]
        assert {"401", "403", "500", "503"} <= {*operation["responses"]}
        successes = {status: told for status, told in operation["responses"].items() if status[0] == "2"}
        assert all("content" in told for status, told in successes.items() if status != "204"), (path, method)
        assert ("{" in path) == any(each["in"] == "path" for each in operation.get("parameters", ()))
        some_id = UNKNOWN.rsplit("/", 1)[1]
        answer = await client.request("OPTIONS", path.replace("{id}", some_id).replace("{share}", some_id))
        assert method.upper() in answer.headers["Allow"].split(", ")
    assert {*File.model_fields} == {*schemas["File"]["properties"]}


async def test_the_document_says_how_clients_prove_who_they_are(client):
    document = json.loads((await client.request("GET", "/api/v1/openapi.json")).body)
    (scheme,) = document["components"]["securitySchemes"].items()
    assert scheme == ("bearer", {"type": "http", "scheme": "bearer", "description": scheme[1]["description"]})
    assert document["security"] == [{"bearer": []}, {}]  # none, where nobody is asked for any


async def test_the_reference_is_a_page_that_runs_nothing(client):
    answer = await client.request("GET", "/api/v1/reference")
    page = answer.body.decode()
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert "<script" not in page
    assert "//" not in page.replace("<!doctype", "")
    targets = {*re.findall(r'href="#([^"]+)"', page)}
    assert targets <= {*re.findall(r'id="([^"]+)"', page)}


async def test_the_api_answers_while_the_database_is_away_with_503(rig, client):
    path = await uploaded(client)
    await rig.database.close()
    for each in (path, FILES, f"{path}/content"):
        status, problem = await ask(client, "GET", each)
        assert (status, problem["code"]) == (503, "database_unavailable")


def test_the_settings_know_where_the_api_is():
    assert API_PATH == ROOT


def test_every_state_can_be_asked_for():
    """The model of the query and the states cannot drift apart."""
    from tusgate.web.api.models import FileQuery

    names = {each.value for each in State}
    assert FileQuery.model_validate({"state": sorted(names)}).filter().states == {State(name) for name in names}
