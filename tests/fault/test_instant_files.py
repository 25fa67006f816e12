"""Files that are not sent, on two replicas over PostgreSQL and MinIO, while equal ones are deleted and cleaned up.

Held by all of it, as the audit looks at it in the end: I3, I4, I10, I11, I14.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.fault.commands import command
from tests.fault.conftest import SMALLEST_PARTS_AND_COLD
from tests.fault.proxy import Gate
from tests.fault.rig import id_of
from tests.fault.test_shared_objects import DATA, cleaned_up, until_shared, uploaded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.fault.rig import Rig
    from tests.wire.client import Client

pytestmark = pytest.mark.slow

FILES = 20
KNOWN = {"sha256": hashlib.sha256(DATA).hexdigest(), "size": len(DATA)}
INSTANT = {"TUSGATE_DEDUP": "on", "TUSGATE_INSTANT_UPLOAD": "on", "TUSGATE_INSTANT_KEYS": "k" * 32}


@pytest.fixture
async def pair(start_rig: Callable[..., Awaitable[Rig]]) -> Rig:
    return await start_rig(SMALLEST_PARTS_AND_COLD | INSTANT, database="postgres", replicas=2)


async def ask(client: Client, path: str, question: object) -> tuple[int, Any]:
    body = json.dumps(question).encode()
    fields = {"Content-Type": "application/json"}
    answer = await client.request("POST", f"/api/v1/uploads/instant{path}", fields, body)
    return answer.status, json.loads(answer.body)


async def proof_for(client: Client) -> dict[str, object]:
    """Return what proves that one has the file."""
    status, given = await ask(client, "/challenge", KNOWN)
    assert status == 200, given
    ranges = [DATA[each["start"] : each["start"] + each["size"]] for each in given["ranges"]]
    answer = hmac.digest(bytes.fromhex(given["nonce"]), b"".join(ranges), "sha256").hex()
    return {**KNOWN, "challenge": given["challenge"], "answer": answer}


async def test_what_one_replica_asks_the_other_one_may_be_told_and_both_at_once_make_one_file(pair: Rig) -> None:
    await uploaded(pair)
    await until_shared(pair, 1)
    one, other = [replica.client for replica in pair.replicas]
    proof = await proof_for(one)
    answers = await asyncio.gather(*[ask(client, "", proof) for client in (one, other) * 4])
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert len({shown["id"] for _, shown in answers}) == 1
    assert len(pair.rows("SELECT 1 FROM uploads")) == 2


async def test_files_that_come_while_all_equal_ones_go_have_their_object_or_are_to_be_sent(pair: Rig) -> None:
    """CC-10, I4, I10, I11: 20 at once, by both replicas, beside the deletion of the one that was sent, and gc."""
    sent = await uploaded(pair)
    key = await until_shared(pair, 1)
    clients = [replica.client for replica in pair.replicas]
    proofs = [await proof_for(clients[number % 2]) for number in range(FILES)]
    chance = random.Random(4)

    async def come(number: int) -> str | None:
        status, shown = await ask(clients[(number + 1) % 2], "", proofs[number])
        assert status == 201 or (status, shown["code"]) == (403, "not_possessed"), shown
        return shown["id"] if status == 201 else None

    async def go() -> None:
        await pair.until(lambda: len(pair.rows("SELECT 1 FROM uploads")) >= FILES // 4)
        assert (await clients[0].delete(sent.path)).status == 204
        sent.journal.deleted = True
        assert (await command(pair, "gc"))[0] in (0, 1)

    come_and_gone = await asyncio.gather(*map(come, range(FILES)), go())
    files = [each for each in come_and_gone if isinstance(each, str)]
    await cleaned_up(pair)
    assert len(files) >= FILES // 4 - 1
    assert id_of(sent.path) not in files

    chance.shuffle(files)
    for left in range(len(files), 0, -1):
        assert await pair.finished_keys() == [key]
        answer = await clients[left % 2].request("GET", f"/api/v1/files/{files[-1]}/content")
        assert (answer.status, answer.body == DATA) == (200, True)
        assert (await clients[left % 2].request("DELETE", f"/api/v1/files/{files.pop()}")).status == 204
        if left <= 2:
            await cleaned_up(pair)
    assert await pair.finished_keys() == []
    status, refused = await ask(clients[0], "", await proof_for(clients[1]))
    assert (status, refused["code"]) == (403, "not_possessed")


async def test_downloads_that_take_for_ever_keep_nobody_from_answering(
    start_rig: Callable[..., Awaitable[Rig]],
) -> None:
    """I15: both are read by connections that no upload needs, of which downloads can have all but some."""
    rig = await start_rig(SMALLEST_PARTS_AND_COLD | INSTANT | {"TUSGATE_MAX_DOWNLOADS": "1"}, database="postgres")
    sent = await uploaded(rig)
    await until_shared(rig, 1)
    gate = Gate()
    rig.proxy.on("GetObject", gate, times=1)
    reading = asyncio.create_task(rig.client.request("GET", f"/api/v1/files/{id_of(sent.path)}/content"))
    await gate.reached.wait()
    async with asyncio.timeout(60):
        status, shown = await ask(rig.client, "", await proof_for(rig.client))
    assert status == 201, shown
    gate.open()
    assert (await reading).body == DATA
