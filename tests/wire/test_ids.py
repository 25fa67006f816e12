"""Ids are secrets where nobody is asked for credentials: nobody can guess one, and they tell nothing (AT-10)."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

from tests.wire.rig import running
from tests.wire.test_files_api import uploaded
from tests.wire.test_shares import CONFIG, share

COUNT = 400
BITS = 6
"""Of one letter of an id."""


def assert_random(ids: list[str]) -> None:
    """No two alike, long enough, without a part that tells the time or the order, and every letter at every place."""
    assert len({*ids}) == len(ids)
    assert {len(each) * BITS for each in ids} == {144}
    for place in range(24):
        letters = Counter(each[place] for each in ids)
        # 64 letters, some 6 of each: a place that tells anything else has far fewer, or one that is far more frequent.
        assert len(letters) > 50, place
        assert max(letters.values()) < 8 * math.ceil(len(ids) / 64), place
    assert ids != sorted(ids)


async def test_ids_of_uploads_tell_nothing(client):
    paths = [await client.create(1) for _ in range(COUNT)]
    assert_random([path.rpartition("/")[2] for path in paths])


async def test_ids_of_share_links_tell_nothing_and_their_signatures_neither(tmp_path):
    async with running(tmp_path, CONFIG) as rig:
        files = [await uploaded(rig.client, b"x") for _ in range(COUNT // 100)]
        made = await asyncio.gather(*[share(rig.client, file) for file in files for _ in range(100)])
        assert_random([shown["id"] for _, shown in made])
        assert_random([path[-24:] for path, _ in made])


async def test_pages_and_files_send_no_referrer(tmp_path):
    """Else whatever is linked from there learns the address."""
    async with running(tmp_path, CONFIG) as rig:
        file = await uploaded(rig.client)
        path, _ = await share(rig.client, file, password="x")
        for address, fields in ((path, {"Accept": "text/html"}), (f"{file}/content", {}), ("/api/v1/reference", {})):
            answer = await rig.client.request("GET", address, fields)
            assert answer.headers["Referrer-Policy"] == "no-referrer", address
