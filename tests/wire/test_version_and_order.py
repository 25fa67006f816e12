"""Versions, HTTP versions, and the order in which faults are found."""

from __future__ import annotations

import pytest

from tests.wire.client import CT, V

UNKNOWN = "/files/unknown-upload-0123456789"


@pytest.mark.spec("VER-01", "Z-01")
async def test_every_tus_answer_names_its_version(client):
    path = await client.create(5)
    for answer in (
        await client.head(path),
        await client.patch(path, 0, b"hello"),
        await client.patch(path, 0, b"hello"),
        await client.delete(path),
        await client.head(UNKNOWN),
    ):
        assert answer.headers["Tus-Resumable"] == "1.0.0"


@pytest.mark.spec("VER-02", "VER-03", "VER-04")
@pytest.mark.parametrize("version", [None, "99.99.99", "0.2.2", "1.0", "", "1.0.0,2.0", "v1.0.0"])
@pytest.mark.parametrize("method", ["POST", "HEAD", "PATCH", "DELETE"])
async def test_another_version_is_refused_and_nothing_happens(rig, version, method):
    """PA-01."""
    path = await rig.client.create(5)
    fields = {**CT, "Upload-Offset": "0", "Upload-Length": "5"}
    if version is not None:
        fields["Tus-Resumable"] = version
    target = "/files" if method == "POST" else path
    answer = await rig.client.request(method, target, fields, b"hello" if method == "PATCH" else None)
    assert answer.status == 412
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert (await rig.client.head(path)).offset == 0
    assert await rig.count() == 1


@pytest.mark.spec("VER-06")
async def test_two_versions_are_no_version(client):
    answer = await client.request("HEAD", UNKNOWN, [*V.items(), ("Tus-Resumable", "0.2.2")])
    assert answer.status == 412


@pytest.mark.spec("VER-06")
@pytest.mark.parametrize("path", [UNKNOWN, "/files", "/files/..%2f"])
async def test_412_comes_before_404_405_and_415(client, path):
    assert (await client.request("PATCH", path, {"Content-Type": "text/plain"}, b"x")).status == 412


async def test_404_comes_before_400_and_415_and_409_before_an_unknown_checksum(client):
    assert (await client.request("PATCH", "/files/short", {**V, "Upload-Offset": "x"}, b"x")).status == 404
    path = await client.create(5)
    unknown = {"Upload-Checksum": "md4 MdbP4NFq6TG3PFnX4MCJwA=="}
    assert (await client.patch(path, 1, b"x", unknown)).status == 409
    assert (await client.patch(UNKNOWN, 1, b"x", unknown)).status == 404
    assert (await client.patch(path, 0, b"123456", unknown)).status == 413
    assert (await client.patch(path, 0, b"x", unknown)).status == 400


@pytest.mark.parametrize("version", ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "HTTP/3.0"])
async def test_only_http_1_0_and_1_1_are_served(client, version):
    """PA-23."""
    async with client.connect() as connection:
        connection.send_head("OPTIONS", "/files", (), version)
        assert (await connection.answer()).status in (400, 505)


async def test_http_1_0_is_served(client):
    answer = await client.request("POST", "/files", {**V, "Upload-Length": "5"}, version="HTTP/1.0")
    assert answer.status == 201


async def test_a_request_target_in_absolute_form_does_not_change_the_location(client):
    """PA-23."""
    answer = await client.request("POST", "http://evil.test/files", {**V, "Upload-Length": "5"})
    assert answer.status == 201
    assert answer.headers["Location"].startswith("http://gateway.test/files/")


@pytest.mark.parametrize(
    "field", ["Upload-Length", "Upload-Metadata", "Upload-Checksum", "Upload-Anything", "Authorization"]
)
@pytest.mark.spec("NUM-02")
async def test_a_doubled_field_is_refused(rig, field):
    answer = await rig.client.post([("Upload-Length", "5"), (field, "k"), (field, "k")])
    assert answer.status == 400
    assert field.encode() in answer.body
    assert await rig.count() == 0


@pytest.mark.spec("CRE-14")
async def test_a_header_block_over_the_limit_is_431_with_all_headers_a_browser_needs(rig):
    fields = {"Upload-Length": "5", "Origin": "https://page.test", **{f"X-{n}": "x" * 8000 for n in range(9)}}
    answer = await rig.client.post(fields)
    assert answer.status == 431
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert await rig.count() == 0


@pytest.mark.parametrize(
    "tail",
    [
        "..%2f..%2fetc",
        "%5c..",
        "%00",
        ".",
        "..",
        "a/b",
        "%D7%A9%D7%9C",
        "short",
        "a" * 65,
        "a" * 10_000,
        "x%20y" * 6,
        "a" * 22 + "/",
    ],
)
async def test_what_cannot_be_an_id_is_404_without_asking_the_database(rig, tail):
    """PA-20."""
    await rig.database.close()
    for method in ("HEAD", "PATCH", "DELETE"):
        answer = await rig.client.request(method, f"/files/{tail}", {**V, **CT, "Upload-Offset": "0"})
        assert answer.status == 404
        if method != "HEAD":
            assert answer.body == b"not_found: There is no such upload.\n"


@pytest.mark.parametrize("path", ["/", "/filesystem", "/nope", "/files2/x"])
async def test_other_paths_are_not_ours(client, path):
    assert (await client.request("PATCH", path, V)).status in (404, 405)


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_is_told(rig, path):
    for method in ("GET", "HEAD"):
        answer = await rig.client.request(method, path)
        assert answer.status == 200
        assert answer.headers["Cache-Control"] == "no-store"


async def test_a_draining_server_is_alive_and_not_ready(rig):
    await rig.writers.drain()
    assert (await rig.client.request("GET", "/livez")).status == 200
    answer = await rig.client.request("GET", "/readyz")
    assert answer.status == 503
    assert answer.body.startswith(b"draining: ")
