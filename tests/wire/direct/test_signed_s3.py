"""`signRequest` of Uppy 6: parts are signed for the store, and all other requests of S3 come to the gateway."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest
from yarl import URL

from tests.wire.direct import DirectClient
from tests.wire.identity import ALICE, BOB, guarded, upload_token
from tests.wire.rig import PART_SIZE
from tusgate.core.access import REQUIRED, Permission
from tusgate.web.api.signed_s3 import SignedS3
from tusgate.web.config import WebConfig

DATA = bytes(range(256)) * (PART_SIZE // 256) + b"the end"
SIGN = "/companion/s3/sign"


async def send(client, method, path, body, fields):
    """Send a request and return its answer as it is: errors of S3 are no problem details."""
    async with client.gateway.connect() as connection:
        connection.send_head(method, path, {**fields, "Content-Length": str(len(body))})
        connection.up.write(body)
        return await connection.answer()


async def ask(client, method, path, body=b""):
    """Ask, below the API."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    media = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
    return await send(client, method, f"/api/v1{path}", raw, {**media, **client.who})


async def sign(client, path=SIGN, **wish):
    answer = await ask(client, "POST", path, wish)
    assert answer.status == 200, answer
    return json.loads(answer.body)


async def follow(client, signed, method, body=b"", media="application/xml"):
    """Send a request that was signed, as Uppy does, and return its status, type and XML."""
    path = signed["url"].removeprefix("http://gateway.test")
    answer = await send(client, method, path, body, {"Content-Type": media, **signed["headers"]})
    root = ElementTree.fromstring(answer.body) if answer.body else None
    return answer.status, answer.headers.get("Content-Type"), root


async def created(client, key="a/größe.png", path=SIGN, media="image/png"):
    status, kind, root = await follow(client, await sign(client, path, method="POST", key=key), "POST", b"", media)
    assert (status, kind, root.tag) == (200, "application/xml", "InitiateMultipartUploadResult")
    return root.findtext("UploadId")


def naming(etags):
    parts = "".join(
        f"<Part><PartNumber>{n}</PartNumber><ETag>{etag.strip(chr(34))}</ETag></Part>" for n, etag in etags.items()
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


async def test_a_file_goes_up_by_signed_requests(rig, client):
    upload_id = await created(client)
    one = {"key": "a/größe.png", "uploadId": upload_id}
    etags = {}
    for number, chunk in ((1, DATA[:PART_SIZE]), (2, DATA[PART_SIZE:])):
        signed = await sign(client, method="PUT", partNumber=number, **one)
        assert not signed["url"].startswith("http://gateway.test")
        status, etags[number] = await client.put(signed, chunk)
        assert status == 200
    _, _, listed = await follow(client, await sign(client, method="GET", **one), "GET")
    found = [(part.findtext("PartNumber"), part.findtext("Size"), part.findtext("ETag")) for part in listed]
    assert found == [("1", str(PART_SIZE), etags[1]), ("2", "7", etags[2])]
    complete = await sign(client, method="POST", **one)
    status, kind, root = await follow(client, complete, "POST", naming(etags))
    assert (status, kind, root.tag) == (200, "application/xml", "CompleteMultipartUploadResult")
    assert (await follow(client, complete, "POST", naming(etags)))[0] == 200, "the first answer may be lost"
    assert root.findtext("Key") == "größe.png"
    assert root.findtext("Location").endswith(f"/api/v1/files/{upload_id}/content")
    row = await rig.row(f"/{upload_id}")
    assert (row.state, row.filename, row.content_type) == ("complete", "größe.png", "image/png")
    assert (await follow(client, await sign(client, method="DELETE", **one), "DELETE"))[0] == 204
    row = await rig.row(f"/{upload_id}")
    assert row.state == "complete", "an abort ends what is unfinished, and never a file"


async def test_a_whole_file_comes_through_the_gateway(rig, client):
    """Nothing is put past the gateway at once, and an empty file is one PUT."""
    signed = await sign(client, method="PUT", key="b c.txt", contentType="text/plain")
    url = URL(f"http://127.0.0.1:{rig.client.port}{signed['url'].removeprefix('http://gateway.test')}", encoded=True)
    async with client.http.put(url, data=b"", headers={**signed["headers"], "Content-Type": "text/plain"}) as answer:
        assert answer.status == 201
        row = await rig.row(answer.headers["Location"])
    assert (row.filename, row.content_type, row.state) == ("b c.txt", "text/plain", "complete")


async def test_what_is_refused_is_told_in_the_xml_of_s3(client):
    upload_id = await created(client)
    one = {"key": "x", "uploadId": upload_id}
    complete = await sign(client, method="POST", **one)
    status, kind, root = await follow(client, complete, "POST", naming({1: "no"}))
    assert (status, kind, root.tag, root.findtext("Code")) == (409, "application/xml", "Error", "parts_refused")
    assert "part 1 missing" in root.findtext("Message")
    for body in (b"", b"{}", b"<a", b"<CompleteMultipartUpload><Part/></CompleteMultipartUpload>", naming({0: "x"})):
        assert (await follow(client, complete, "POST", body))[0] == 400
    bomb = f'<!DOCTYPE a [<!ENTITY b "c">]>{naming({1: "&b;"}).decode()}'
    for body in (
        bomb.encode(),
        bomb.encode("utf-16"),
        b'<?xml version="1.0" encoding="cp037"?>' + bomb.encode("cp037"),
    ):
        assert (await follow(client, complete, "POST", body))[0] == 400, "an entity was expanded"
    abort = await sign(client, method="DELETE", **one)
    assert (await follow(client, abort, "DELETE"))[0] == 204
    assert (await follow(client, await sign(client, method="GET", **one), "GET"))[0] == 410


@pytest.mark.parametrize(
    ("wish", "status"),
    [
        ({}, 400),
        ({"method": "PATCH", "key": "x"}, 400),
        ({"method": "GET", "key": "x"}, 400),
        ({"method": "DELETE", "key": "x"}, 400),
        ({"method": "PUT", "key": "x", "uploadId": "unknown-upload-0123456789"}, 400),
        ({"method": "PUT", "key": "x", "uploadId": "unknown-upload-0123456789", "partNumber": 1}, 404),
        ({"method": "PUT", "key": "x", "uploadId": "../../etc", "partNumber": 1}, 404),
        ({"method": "POST", "key": "x", "uploadId": "../../etc"}, 404),
        ({"method": "PUT", "key": "x", "uploadId": "unknown-upload-0123456789", "partNumber": 10_001}, 400),
        ({"method": "POST", "key": "x" * 1025}, 400),
    ],
)
async def test_what_cannot_be_signed_is_not(rig, client, wish, status):
    """DM-06."""
    assert (await ask(client, "POST", SIGN, wish)).status == status
    assert await rig.count() == 0


async def test_credentials_go_along_and_a_token_in_the_path_counts(tmp_path, store, http):
    async with guarded(tmp_path, store=store) as here:
        client = DirectClient(here.client, http, await here.who(ALICE))
        upload_id = await created(client, "a.bin")
        client.who = {}
        assert (await ask(client, "POST", SIGN, {"method": "POST", "key": "a"})).status == 401
        token = upload_token(jti="uppy")["Authorization"].removeprefix("Bearer ")
        path = f"/companion/u/{token}/s3/sign"
        assert (await here.rig.row(f"/{await created(client, 'b.bin', path)}", ALICE)).filename == "b.bin"
        whole = await sign(client, path, method="PUT", key="c")
        assert whole["headers"] == {"Authorization": f"Bearer {token}"}
        client.who = await here.who(BOB)
        wish = {"method": "PUT", "key": "a", "uploadId": upload_id, "partNumber": 1}
        assert (await ask(client, "POST", SIGN, wish)).status == 404
        assert (await follow(client, await sign(client, method="GET", key="a", uploadId=upload_id), "GET"))[0] == 404


@pytest.mark.parametrize("permission", [*Permission, None])
async def test_a_permission_allows_exactly_what_it_is_for(tmp_path, store, http, permission):
    """AT-03."""
    held = frozenset({permission} if permission is not None else ())
    async with guarded(tmp_path, store=store) as here:
        alice = DirectClient(here.client, http, await here.who(ALICE))
        client = DirectClient(here.client, http, await here.who(ALICE, held))
        for operation in SignedS3(WebConfig(), here.rig.direct).operations():
            if "{token}" in operation.path:
                continue
            upload_id = await created(alice, "a")
            body = {"method": "PUT", "key": "a", "uploadId": upload_id, "partNumber": 1}
            path = operation.path.replace("{id}", upload_id)
            answer = await ask(client, operation.method, path, body if operation.path.endswith("sign") else b"")
            assert operation.route is not None
            needed = REQUIRED[operation.route, operation.asked_as or operation.method]
            assert (answer.status == 403) == (not needed & held), (operation.name, answer)
