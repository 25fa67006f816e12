from __future__ import annotations

import pytest

from tests.wire.client import V
from tusgate.web.config import WebConfig

ANYWHERE = ["/files", "/files/", "/files/unknown-upload-0123456789", "/files/a/b", "/files/..%2f..%2fetc"]


@pytest.mark.spec("OPT-01", "OPT-02", "OPT-07", "OPT-08", "VER-05")
@pytest.mark.parametrize("path", ANYWHERE)
@pytest.mark.parametrize("version", [{}, V, {"Tus-Resumable": "0.2.2"}], ids=["none", "1.0.0", "0.2.2"])
async def test_options_tells_our_abilities_anywhere_and_to_anybody(client, path, version):
    answer = await client.request("OPTIONS", path, {**version, "Authorization": "Bearer junk"})
    assert answer.status == 200
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    assert answer.body == b""


@pytest.mark.spec("OPT-03", "OPT-04", "EXP-01", "DEF-01", "SUM-01", "DEL-01", "TRL-01", "TRL-05")
async def test_exactly_the_extensions_that_work_are_listed_without_blanks(client):
    extensions = (await client.request("OPTIONS", "/files")).headers["Tus-Extension"]
    assert set(extensions.split(",")) == {
        "creation",
        "creation-with-upload",
        "creation-defer-length",
        "expiration",
        "termination",
        "checksum",
        "concatenation",
    }


async def test_expiration_is_not_listed_when_nothing_expires(start):
    rig = await start(WebConfig(expires=False))
    assert "expiration" not in (await rig.client.request("OPTIONS", "/files")).headers["Tus-Extension"]


@pytest.mark.spec("OPT-05")
async def test_the_maximum_size_is_told_when_there_is_one(start, client):
    assert "Tus-Max-Size" not in (await client.request("OPTIONS", "/files")).headers
    rig = await start(max_size=12345)
    assert (await rig.client.request("OPTIONS", "/files")).headers["Tus-Max-Size"] == "12345"


@pytest.mark.spec("OPT-06", "SUM-01")
async def test_checksum_algorithms_are_listed_in_lower_case_with_sha1_among_them(client):
    algorithms = (await client.request("OPTIONS", "/files")).headers["Tus-Checksum-Algorithm"]
    assert "sha1" in algorithms.split(",")
    assert algorithms == algorithms.lower()
    assert " " not in algorithms


@pytest.mark.spec("OPT-08")
async def test_options_answers_while_the_database_is_closed(rig):
    """PA-22."""
    await rig.database.close()
    assert (await rig.client.request("OPTIONS", "/files/unknown-upload-0123456789")).status == 200
