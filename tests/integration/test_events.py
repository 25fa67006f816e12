"""Events from real gateways to real receivers: what operators and receivers see of it, crashes included."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.gateway import TUSGATE
from tests.receiver import OK, Receiver, receiving, status
from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.gateway import Gateway

    Start = Callable[..., Gateway]

DOCUMENT = Path(__file__).parents[2] / "docs" / "events.md"
SECRET = "whsec_" + base64.b64encode(b"not to be seen anywhere.").decode()
DEADLINE = 60.0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def settings_for(receiver: Receiver, folder: Path, **sink: Any) -> dict[str, str]:
    secret = folder / "hook.secret"
    secret.write_text(SECRET)
    declared = {"name": "app", "type": "webhook", "url": receiver.url, "secret_files": [str(secret)], **sink}
    return {"TUSGATE_SINKS": json.dumps([declared]), "TUSGATE_SINK_ALLOW": f"127.0.0.1:{receiver.port}"}


async def send(gateway: Gateway, body: bytes = b"hello") -> int:
    """Send a file in one request; return the status."""
    async with (
        aiohttp.ClientSession() as session,
        session.put(f"{gateway.endpoint}/hello.txt", data=body) as answer,
    ):
        return answer.status


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.02)


def told(receiver: Receiver) -> list[str]:
    return [json.loads(request.body)["type"] for request in receiver.received]


async def operate(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `tusgate events` with the settings of the gateway."""
    return await command(gateway, "events", *arguments)


async def fetched(gateway: Gateway, path: str) -> dict[str, Any]:
    async with aiohttp.request("GET", f"{gateway.url}{path}") as answer:
        assert answer.status == 200
        found: dict[str, Any] = await answer.json()
        return found


async def command(gateway: Gateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [*TUSGATE, *arguments],
        cwd=gateway.home,
        env=gateway.environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


@pytest.mark.slow
async def test_the_receiver_and_the_settings_in_the_document_work_as_they_stand(
    start_gateway: Start, tmp_path: Path
) -> None:
    code, port = block("python"), free_port()
    assert len([line for line in code.splitlines() if line]) == 10
    home = tmp_path / "documented"
    home.mkdir()
    await asyncio.to_thread(subprocess.run, ["sh", "-c", block("sh")], cwd=home, check=True)
    (home / "receiver.py").write_text(code.replace("9000", str(port)))
    (home / "tusgate.toml").write_text(block("toml").replace("9000", str(port)))
    with (home / "told").open("wb") as output:
        process = await asyncio.create_subprocess_exec(sys.executable, "receiver.py", cwd=home, stdout=output)
    try:
        gateway = start_gateway({"TUSGATE_CONFIG": str(home / "tusgate.toml")}, home=home)
        assert await send(gateway) == 201
        await until(lambda: (home / "told").read_text().splitlines()[1:] == ["upload.completed hello.txt"])
        assert (home / "told").read_text().splitlines()[0] == "upload.created hello.txt"
        assert (home / "hook.secret").read_text().strip() not in gateway.log_path.read_text()
    finally:
        process.kill()
        await process.wait()


@pytest.mark.slow
async def test_a_process_that_dies_right_after_the_commit_has_told_it_all_the_same(
    start_gateway: Start, receiver: Receiver, tmp_path: Path
) -> None:
    """EV-02, I12."""
    doom = {"TUSGATE_CRASH": "after-commit", "TUSGATE_ENVIRONMENT": "development"}
    gateway = start_gateway({**settings_for(receiver, tmp_path), **doom})
    with pytest.raises(aiohttp.ClientError):
        await send(gateway)
    await asyncio.to_thread(gateway.exit_code)
    assert "upload.completed" not in told(receiver)
    gateway.environment.pop("TUSGATE_CRASH")
    gateway.start()
    await until(lambda: "upload.completed" in told(receiver))
    assert Counter(dict(zip(receiver.ids, told(receiver), strict=True)).values()) == {
        "upload.created": 1,
        "upload.completed": 1,
    }


@pytest.mark.slow
async def test_an_operator_finds_what_could_not_be_delivered_and_has_it_delivered(
    start_gateway: Start, receiver: Receiver, tmp_path: Path
) -> None:
    """EV-05."""
    receiver.answers = [status(400)]
    gateway = start_gateway(settings_for(receiver, tmp_path, retries=0, events=["upload.completed"]))
    assert await send(gateway) == 201
    await until(lambda: "delivery.dead" in gateway.log_path.read_text())

    listed = await operate(gateway, "list", "--state", "dead", "--json")
    assert (listed.returncode, listed.stderr) == (1, "")
    *rows, summary = map(json.loads, listed.stdout.splitlines())
    assert summary["dead"] == 1
    assert (rows[0]["event"], rows[0]["error"]) == (receiver.ids[0], "the receiver answered 400")

    said = await operate(gateway, "show", receiver.ids[0])
    assert (said.returncode, said.stderr) == (0, "")
    shown = json.loads(said.stdout)
    assert shown["event"] == json.loads(receiver.received[0].body)
    assert [each["state"] for each in shown["deliveries"]] == ["dead"]

    file = f"/api/v1/files/{shown['event']['subject']}"
    (undelivered,) = (await fetched(gateway, file))["undelivered"]
    assert (undelivered["type"], undelivered["sink"]) == ("upload.completed", "app")

    assert (await operate(gateway, "replay")).returncode == 2
    receiver.answers = [OK]
    replayed = await operate(gateway, "replay", "--sink", "app", "--since", "1h")
    assert replayed.stdout == "1 event to be delivered again\n"
    await until(lambda: len(receiver.received) == 2)
    assert receiver.ids == [receiver.ids[0]] * 2

    async with asyncio.timeout(DEADLINE):
        while (await operate(gateway, "list", "--state", "delivered", "--json")).stdout.count("\n") != 2:
            pass
    assert (await operate(gateway, "list")).returncode == 0
    assert (await fetched(gateway, file))["undelivered"] == []
    assert (await operate(gateway, "drop", "--all", "--state", "any")).stdout == "1 event dropped\n"
    assert SECRET not in gateway.log_path.read_text()


@pytest.mark.slow
async def test_a_receiver_that_is_gone_is_left_alone_until_an_operator_says_so(
    start_gateway: Start, receiver: Receiver, tmp_path: Path
) -> None:
    """EV-05."""
    receiver.answers = [status(410), OK]
    gateway = start_gateway(settings_for(receiver, tmp_path, events=["upload.completed"]))
    await send(gateway)
    await until(lambda: "sink.disabled" in gateway.log_path.read_text())
    await send(gateway)
    assert "app is disabled: the receiver answered 410" in (await operate(gateway, "list")).stderr
    assert len(receiver.received) == 1
    assert (await operate(gateway, "enable", "app")).returncode == 0
    await until(lambda: len(receiver.received) == 2)


@pytest.mark.slow
async def test_lines_on_a_file_are_told_beside_a_webhook_that_is_down(start_gateway: Start, tmp_path: Path) -> None:
    sinks = [
        {"name": "log", "type": "file", "path": str(tmp_path / "events.jsonl")},
        {"name": "app", "type": "webhook", "url": "http://127.0.0.1:1/", "secret_files": [str(tmp_path / "s")]},
    ]
    (tmp_path / "s").write_text(SECRET)
    gateway = start_gateway({"TUSGATE_SINKS": json.dumps(sinks), "TUSGATE_SINK_ALLOW": "127.0.0.1:1"})
    assert await send(gateway) == 201
    path = tmp_path / "events.jsonl"
    await until(lambda: path.exists() and path.read_text().count("\n") == 2)
    assert [json.loads(line)["type"] for line in path.read_text().splitlines()] == [
        "upload.created",
        "upload.completed",
    ]


@pytest.mark.slow
async def test_files_of_a_principal_and_finals_of_partials_are_told_from_their_creation_to_their_deletion(
    start_gateway: Start, tmp_path: Path
) -> None:
    """I12, CAT-02: whose they are stands in each event; what clients cannot see has none."""
    path = tmp_path / "events.jsonl"
    sinks = [{"name": "log", "type": "file", "path": str(path)}]
    gateway = start_gateway({"TUSGATE_SINKS": json.dumps(sinks), "TUSGATE_AUTH": "token"})
    made = await command(gateway, "token", "create", "--tenant", "acme", "--owner", "scanner", "--json")
    bearer = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}

    async with aiohttp.ClientSession(gateway.url, headers=bearer, raise_for_status=True) as session:

        async def create(concat: str, body: bytes = b"") -> str:
            fields = {"Tus-Resumable": "1.0.0", "Upload-Concat": concat}
            if body:
                group = base64.b64encode(b"pictures").decode()
                fields |= {"Upload-Length": str(len(body)), "Upload-Metadata": f"concat-group {group}"}
                fields |= {"Content-Type": "application/offset+octet-stream"}
            async with session.post("/files", headers=fields, data=body) as answer:
                return urlsplit(answer.headers["Location"]).path

        partials = [await create("partial", body) for body in (b"hello", b"world")]
        final = await create("final;" + " ".join(partials))
        await until(lambda: "upload.completed" in types_in(path).get(last(final), []))
        async with session.delete(f"/api/v1/files/{last(final)}"):
            pass
        for partial in partials:
            async with session.delete(partial, headers={"Tus-Resumable": "1.0.0"}):
                pass

    expected = {last(partial): ["upload.created", "upload.terminated"] for partial in partials}
    expected[last(final)] = ["upload.created", "upload.completed", "file.deleted"]
    await until(lambda: types_in(path) == expected)
    told = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(each["tenant"], each["data"]["upload"]["owner"]) for each in told} == {("acme", "scanner")}


@pytest.mark.servers
async def test_a_listener_hears_of_what_other_gateways_do_and_goes_on_at_another_when_its_own_is_killed(
    start_gateway: Start, tmp_path: Path, database_url: str
) -> None:
    """CR-01: `Last-Event-ID` is good at any replica. Nothing but the streams wants the events."""
    settings = {
        "TUSGATE_DATABASE_URL": database_url,
        "TUSGATE_DATA_DIR": str(tmp_path / "shared"),
        "TUSGATE_EVENT_STREAM": "on",
    }
    here, there = [start_gateway(settings) for _ in range(2)]
    seen = ""
    types: list[str] = []

    async def listen(gateway: Gateway, count: int) -> None:
        nonlocal seen
        known = {"Last-Event-ID": seen} if seen else {}
        url = f"{gateway.url}/api/v1/events"
        async with aiohttp.ClientSession() as session, session.get(url, headers=known) as answer:
            assert answer.status == 200
            listening.set()
            while len(types) < count:
                line = (await answer.content.readline()).decode().rstrip()
                seen = line.removeprefix("id: ") if line.startswith("id: ") else seen
                types.extend([line.removeprefix("event: ")] if line.startswith("event: ") else [])
            if gateway is here:
                gateway.kill()

    async with asyncio.timeout(DEADLINE):
        listening = asyncio.Event()
        listener = asyncio.create_task(listen(here, 2))
        await listening.wait()
        assert await send(there) == 201
        await listener
        assert types == ["upload.created", "upload.completed"]
        assert await send(there) == 201
        await listen(there, 5)  # the first event, too: it is not known here that it was taken
    assert sorted(types[2:]) == ["upload.completed", "upload.created", "upload.created"]


@pytest.mark.slow
async def test_a_gateway_that_is_told_to_stop_sends_listeners_away(start_gateway: Start) -> None:
    gateway = start_gateway({"TUSGATE_EVENT_STREAM": "on"})
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{gateway.url}/api/v1/events") as answer,
        asyncio.timeout(DEADLINE),
    ):
        assert await answer.content.readline() == b"retry: 2000\n"
        gateway.terminate()
        assert await answer.content.read() == b"\n"
    assert await asyncio.to_thread(gateway.exit_code) == 0


def last(path: str) -> str:
    return path.rpartition("/")[2]


def types_in(lines: Path) -> dict[str, list[str]]:
    """Return the types of the events of each upload that stand in a file of a sink, once each and in their order."""
    told = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    found: dict[str, list[str]] = {}
    for event in {event["id"]: event for event in told}.values():
        found.setdefault(event["subject"], []).append(event["type"])
    return found


@pytest.mark.servers
async def test_two_gateways_of_which_one_is_killed_tell_every_file_once_or_more_and_nothing_else(
    start_gateway: Start, receiver: Receiver, tmp_path: Path, database_url: str
) -> None:
    """EV-02, EV-03, EV-10, I12: a multiset compare of what clients were told with what the receiver was."""
    settings = {
        **settings_for(receiver, tmp_path, retries=100, retry_delay="100ms"),
        "TUSGATE_DATABASE_URL": database_url,
        "TUSGATE_DATA_DIR": str(tmp_path / "shared"),
    }
    receiver.answers = [status(503), OK, OK, status(500), OK]
    gateways = [start_gateway(settings) for _ in range(2)]

    async def send_some(gateway: Gateway) -> int:
        done = 0
        for _ in range(30):
            try:
                done += await send(gateway) == 201
            except aiohttp.ClientError:
                break
        return done

    senders = [asyncio.create_task(send_some(gateway)) for gateway in gateways]
    await until(lambda: len(receiver.received) > 20)
    gateways[0].kill()
    acknowledged = sum(await asyncio.gather(*senders))

    def completed() -> set[str]:
        found = zip(receiver.ids, told(receiver), strict=True)
        return {event_id for event_id, event_type in found if event_type == "upload.completed"}

    await until(lambda: len(completed()) >= acknowledged)
    async with asyncio.timeout(2 * DEADLINE):  # the leases of the dead one have to run out
        while (await operate(gateways[1], "list", "--state", "waiting", "--json")).stdout.count("\n") != 1:
            pass
    taken: dict[str, list[int]] = {}
    for request in receiver.received:
        upload_id, _, number = request.event_id.rpartition("-")
        if int(number) not in taken.setdefault(upload_id, []):
            taken[upload_id].append(int(number))
    assert all(numbers == sorted(numbers) for numbers in taken.values())
    assert acknowledged <= len(completed()) <= acknowledged + 1
    assert {len(numbers) for numbers in taken.values()} <= {1, 2}
