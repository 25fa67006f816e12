from __future__ import annotations

import pytest

from tests.wire.client import CT, V


def override(method):
    return {**V, "X-HTTP-Method-Override": method}


@pytest.mark.spec("OVR-01", "OVR-05")
@pytest.mark.parametrize("name", ["PATCH", "patch"])
@pytest.mark.parametrize("real", ["POST", "PUT", "GET"])
@pytest.mark.spec("OVR-04")
async def test_an_overridden_patch_is_a_patch(rig, real, name):
    path = await rig.client.create(5)
    answer = await rig.client.request(real, path, {**override(name), **CT, "Upload-Offset": "0"}, b"hello")
    assert (answer.status, answer.offset) == (204, 5)
    assert await rig.stored(path) == b"hello"


@pytest.mark.spec("OVR-02", "OVR-04")
@pytest.mark.parametrize("real", ["POST", "PUT", "GET", "HEAD"])
async def test_an_overridden_delete_is_a_delete(client, real):
    """PA-13."""
    path = await client.create(5)
    assert (await client.request(real, path, override("DELETE"))).status == 204
    assert (await client.head(path)).status == 410


@pytest.mark.spec("OVR-03")
async def test_an_overridden_head_is_a_head_without_a_body(client):
    path = await client.create(5)
    answer = await client.request("POST", path, override("HEAD"))
    assert (answer.status, answer.offset, answer.body) == (200, 0, b"")
    missing = await client.request("POST", "/files/unknown-upload-0123456789", override("HEAD"))
    assert (missing.status, missing.body) == (404, b"")


@pytest.mark.spec("OVR-05")
@pytest.mark.parametrize("name", ["TRACE", "foo", "", "GET"])
async def test_another_method_is_405(client, name):
    """PA-13."""
    path = await client.create(5)
    answer = await client.request("POST", path, override(name))
    assert answer.status == 405
    assert answer.headers["Allow"] == "HEAD, PATCH, DELETE, OPTIONS"


async def test_two_overrides_are_400(client):
    """PA-13."""
    path = await client.create(5)
    fields = [*override("HEAD").items(), ("X-HTTP-Method-Override", "DELETE")]
    assert (await client.request("POST", path, fields)).status == 400
    assert (await client.head(path)).status == 200


@pytest.mark.spec("OVR-06")
async def test_the_rules_of_the_effective_method_apply(client):
    """PA-13."""
    path = await client.create(5)
    fields = {"X-HTTP-Method-Override": "DELETE"}
    assert (await client.request("GET", path, fields)).status == 412
    assert (await client.head(path)).status == 200


@pytest.mark.spec("OVR-04")
async def test_a_preflight_is_never_overridden(client):
    path = await client.create(5)
    fields = {**override("DELETE"), "Origin": "https://page.test", "Access-Control-Request-Method": "PATCH"}
    assert (await client.request("OPTIONS", path, fields)).status == 200
    assert (await client.head(path)).status == 200
