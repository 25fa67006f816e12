"""Hook servers as processes of their own, beside real gateways: documents, tusd's example, crashes."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.hook_server import HookServer, hook_server
from tests.servers.process import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.gateway import Gateway

    Start = Callable[..., Gateway]

DOCUMENT = Path(__file__).parents[2] / "docs" / "hooks.md"
DEADLINE = 60.0
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
PROJECT = "project " + base64.b64encode(b"7").decode()
AS_TUSD_SHOWS_IT = """
from http.server import HTTPServer, BaseHTTPRequestHandler
import json, sys

class SimpleHTTPRequestHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        hook_request = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        print(hook_request['Type'], hook_request['Event']['Upload']['ID'], flush=True)
        hook_response = {'HTTPResponse': {'Header': {}}}
        if hook_request['Type'] == 'pre-create':
            if 'project' not in hook_request['Event']['Upload']['MetaData']:
                hook_response['HTTPResponse']['StatusCode'] = 400
                hook_response['HTTPResponse']['Header']['X-From-Pre-Create'] = 'hello'
                hook_response['RejectUpload'] = True
        if hook_request['Type'] == 'pre-finish':
            hook_response['HTTPResponse']['StatusCode'] = 200
            hook_response['HTTPResponse']['Header']['X-From-Pre-Finish'] = 'hello again'
            hook_response['HTTPResponse']['Body'] = 'some information'
        response_body = json.dumps(hook_response)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(response_body.encode())

HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""


def block(language: str, number: int = 0) -> str:
    return str(re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)[number])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - another process brings it about
            await asyncio.sleep(0.02)


async def send(method: str, url: str, fields: dict[str, str], body: bytes = b"") -> tuple[int, Any, str]:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=fields, data=body) as answer:
        return answer.status, answer.headers, await answer.text()


@asynccontextmanager
async def script(home: Path, code: str, port: int) -> AsyncIterator[Callable[[], list[str]]]:
    """Run a hook server; give what it has printed so far."""
    with _prepared(home, code).open("wb") as output:
        process = await asyncio.create_subprocess_exec(sys.executable, "hook.py", str(port), cwd=home, stdout=output)
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    break
        yield lambda: (home / "told").read_text().splitlines()
    finally:
        process.kill()
        await process.wait()


def _prepared(home: Path, code: str) -> Path:
    home.mkdir(exist_ok=True)
    (home / "hook.py").write_text(code)
    return home / "told"


def settings_for(port: int, *moments: str, after: bool = False, **hook: Any) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}/"
    declared = {"name": "app", "type": "http", "url": url, "moments": moments, **hook}
    sink = {"name": "after", "type": "tusd", "url": url}
    return {
        "TUSGATE_HOOKS": json.dumps([declared]),
        "TUSGATE_SINKS": json.dumps([sink] if after else []),
        "TUSGATE_SINK_ALLOW": f"127.0.0.1:{port}",
    }


@pytest.mark.slow
async def test_the_server_and_the_settings_in_the_document_work_as_they_stand(
    start_gateway: Start, tmp_path: Path
) -> None:
    code, port, home = block("python"), free_port(), tmp_path / "documented"
    assert len([line for line in code.splitlines() if line]) <= 20
    async with script(home, code.replace("8000", str(port)), port):
        (home / "tusgate.toml").write_text(block("toml").replace("8000", str(port)))
        gateway = start_gateway({"TUSGATE_CONFIG": str(home / "tusgate.toml")}, home=home)
        code_, headers, text = await send("POST", gateway.endpoint, {**TUS, "Upload-Length": "5"})
        assert (code_, text) == (422, '{"message": "which project?"}')
        assert headers["Content-Type"] == "application/json"
        fields = {**TUS, "Upload-Length": "5", "Upload-Metadata": PROJECT}
        code_, headers, _ = await send("POST", gateway.endpoint, fields)
        assert code_ == 201
        url = headers["Location"]
        assert "seen-by" in (await send("HEAD", url, TUS))[1]["Upload-Metadata"]
        assert (await send("PATCH", url, {**BYTES, "Upload-Offset": "0"}, b"hello"))[0] == 204
        assert (await send("DELETE", url, TUS))[0] == 204


@pytest.mark.slow
async def test_a_server_written_for_tusd_works_before_and_after(start_gateway: Start, tmp_path: Path) -> None:
    port = free_port()
    async with script(tmp_path / "tusd", AS_TUSD_SHOWS_IT, port) as told:
        gateway = start_gateway(settings_for(port, "create", "finish", "terminate", after=True))
        code, headers, _ = await send("POST", gateway.endpoint, {**TUS, "Upload-Length": "5"})
        assert (code, headers["X-From-Pre-Create"]) == (400, "hello")
        fields = {**TUS, "Upload-Length": "5", "Upload-Metadata": PROJECT}
        url = (await send("POST", gateway.endpoint, fields))[1]["Location"]
        code, headers, text = await send("PATCH", url, {**BYTES, "Upload-Offset": "0"}, b"hello")
        assert (code, text, headers["X-From-Pre-Finish"]) == (200, "some information", "hello again")
        await until(lambda: any(line.startswith("post-finish") for line in told()))
        assert (await send("DELETE", url, TUS))[0] == 204
        await until(lambda: any(line.startswith("post-terminate") for line in told()))
        upload_id = url.rsplit("/", 1)[1]
        about_it = [line.split(" ")[0] for line in told() if line.endswith(upload_id)]
        assert [kind for kind in about_it if kind.startswith("post")] == [
            "post-create",
            "post-finish",
            "post-terminate",
        ]
        assert [kind for kind in about_it if kind.startswith("pre")] == ["pre-finish", "pre-terminate"]


@pytest.fixture
async def server() -> AsyncIterator[HookServer]:
    async with hook_server() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("place", ["before-put-object:2", "after-put-object:2", "before-complete", "after-complete"])
@pytest.mark.parametrize("size", [100_000], ids=["one object"])
async def test_a_gateway_that_dies_between_the_answer_and_the_commit_asks_again_and_loses_nothing(
    start_gateway: Start, server: HookServer, place: str, size: int
) -> None:
    """I5."""
    doom = {"TUSGATE_CRASH": place, "TUSGATE_ENVIRONMENT": "development"}
    gateway = start_gateway({**settings_for(server.receiver.port, "finish"), **doom})
    body = bytes(range(250)) * (size // 250)
    url = (await send("POST", gateway.endpoint, {**TUS, "Upload-Length": str(size)}))[1]["Location"]
    with pytest.raises(aiohttp.ClientError):
        await send("PATCH", url, {**BYTES, "Upload-Offset": "0"}, body)
    await asyncio.to_thread(gateway.exit_code)
    assert server.asked == ["pre-finish"]
    gateway.environment.pop("TUSGATE_CRASH")
    gateway.start()
    async with asyncio.timeout(DEADLINE):
        while (await send("HEAD", url, TUS))[1].get("Upload-Offset") != str(size):
            pass
    assert set(server.asked) == {"pre-finish"}
    assert len(server.asked) == (1 if place == "after-complete" else 2)
    upload_id = url.rsplit("/", 1)[1]
    content = f"{gateway.url}/api/v1/files/{upload_id}/content"
    async with aiohttp.ClientSession() as session, session.get(content) as answer:
        code, got = answer.status, await answer.read()
    assert (code, got == body) == (200, True)


@pytest.mark.slow
async def test_a_gateway_that_dies_while_a_hook_thinks_about_a_new_upload_has_made_none(
    start_gateway: Start, server: HookServer
) -> None:
    server.held = {"pre-create"}
    gateway = start_gateway(settings_for(server.receiver.port, "create"))
    asking = asyncio.create_task(send("POST", gateway.endpoint, {**TUS, "Upload-Length": "5"}))
    await until(lambda: server.asked == ["pre-create"])
    await asyncio.to_thread(gateway.crash_and_start)
    with pytest.raises(aiohttp.ClientError):
        await asking
    _, _, text = await send("GET", f"{gateway.url}/api/v1/files", {})
    assert json.loads(text)["files"] == []


@pytest.mark.slow
async def test_a_gateway_that_is_told_to_stop_does_not_wait_for_a_hook_that_thinks(
    start_gateway: Start, server: HookServer
) -> None:
    server.held = {"pre-create"}
    settings = settings_for(server.receiver.port, "create", timeout="60s")
    gateway = start_gateway({**settings, "TUSGATE_DRAIN_TIMEOUT": "2s"})
    asking = asyncio.create_task(send("POST", gateway.endpoint, {**TUS, "Upload-Length": "5"}))
    await until(lambda: server.asked == ["pre-create"])
    gateway.terminate()
    assert await asyncio.to_thread(gateway.exit_code, 30.0) == 0
    with pytest.raises(aiohttp.ClientError):
        await asking
    server.held = set()
    gateway.start()
    _, _, text = await send("GET", f"{gateway.url}/api/v1/files", {})
    assert json.loads(text)["files"] == []


@pytest.mark.slow
async def test_post_receive_may_stop_an_upload(start_gateway: Start, server: HookServer) -> None:
    server.answers["post-receive"] = {"StopUpload": True}
    url = server.receiver.url
    sink = {"name": "after", "type": "tusd", "url": url, "events": ["upload.progress"]}
    gateway = start_gateway(
        {
            "TUSGATE_SINKS": json.dumps([sink]),
            "TUSGATE_SINK_ALLOW": f"127.0.0.1:{server.receiver.port}",
            "TUSGATE_PROGRESS_INTERVAL": "0s",
        }
    )
    upload = (await send("POST", gateway.endpoint, {**TUS, "Upload-Length": "10"}))[1]["Location"]
    assert (await send("PATCH", upload, {**BYTES, "Upload-Offset": "0"}, b"hello"))[0] == 204
    async with asyncio.timeout(DEADLINE):
        while (await send("HEAD", upload, TUS))[0] != 410:
            pass
    assert server.asked == ["post-receive"]


@pytest.mark.slow
async def test_post_finish_says_where_the_file_is(start_gateway: Start, server: HookServer) -> None:
    gateway = start_gateway(settings_for(server.receiver.port, "terminate", after=True))
    assert (await send("PUT", f"{gateway.endpoint}/a.txt", {}, b"hello"))[0] == 201
    await until(lambda: "post-finish" in server.asked)
    storage = server.event("post-finish")["Upload"]["Storage"]
    assert storage["Type"] == "filestore"
    assert await asyncio.to_thread(Path(storage["Path"]).read_bytes) == b"hello"


@pytest.mark.slow
async def test_the_plugin_in_the_document_works_as_it_stands(start_gateway: Start, tmp_path: Path) -> None:
    home = tmp_path / "plugin"
    info = home / "my_hooks-1.0.dist-info"
    info.mkdir(parents=True)
    (home / "my_hooks.py").write_text(block("python", 1))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-hooks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[tusgate.hooks]\nsizes = my_hooks:Sizes\n")
    hook = {"name": "own", "type": "plugin", "plugin": "sizes", "options": {"most": 10}}
    root = Path(__file__).parents[2]
    gateway = start_gateway(
        {"TUSGATE_HOOKS": json.dumps([hook]), "PYTHONPATH": f"{root}:{home}"}, home=home / "gateway"
    )
    code, _, text = await send("POST", gateway.endpoint, {**TUS, "Upload-Length": "11"})
    assert (code, text) == (413, "too large for us\n")
    assert (await send("POST", gateway.endpoint, {**TUS, "Upload-Length": "10"}))[0] == 201
