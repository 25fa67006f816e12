"""Hook servers on real sockets, asked by the real gateway, and what clients of all protocols see of their answers."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from standardwebhooks import Webhook

from tests.hook_server import HookServer, hook_server
from tests.receiver import Received, status
from tests.wire.rig import until
from tusgate.core.hooks import Moment
from tusgate.core.model import State, UploadId
from tusgate.service.hooks import Asked, Hooks
from tusgate.sinks.http_hook import HttpHook, HttpHookConfig
from tusgate.sinks.posting import Receiver
from tusgate.web.config import WebConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.wire.rig import Rig
    from tusgate.core.model import Upload

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
SECRET = "whsec_" + base64.b64encode(b"s" * 24).decode()
REFUSAL = {
    "RejectUpload": True,
    "RejectTermination": True,
    "HTTPResponse": {
        "StatusCode": 403,
        "Body": '{"message":"no project 1234"}',
        "Header": {"Content-Type": "application/json", "X-Project": "1234"},
    },
}
COMMENT = {"HTTPResponse": {"StatusCode": 200, "Body": "some information", "Header": {"X-From-Hook": "hello"}}}


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


class Scene:
    """A gateway, its hook server, and a client."""

    def __init__(self, rig: Rig, server: HookServer, session: aiohttp.ClientSession) -> None:
        self.rig = rig
        self.server = server
        self.session = session
        self.url = f"http://127.0.0.1:{rig.client.port}/files"

    async def send(self, method: str, url: str, fields: dict[str, str], body: bytes = b"") -> tuple[int, Any, str]:
        """Return status, headers and text of the answer."""
        headers = {"Origin": "http://page.test", **fields}
        async with self.session.request(method, url, headers=headers, data=io.BytesIO(body)) as answer:
            return answer.status, answer.headers, await answer.text()

    async def create(self, length: int = 5, **more: str) -> str:
        code, headers, text = await self.send("POST", self.url, {**TUS, "Upload-Length": str(length), **more})
        assert code == 201, text
        return str(headers["Location"])

    async def patch(self, url: str, body: bytes, offset: int = 0) -> tuple[int, Any, str]:
        return await self.send("PATCH", url, {**BYTES, "Upload-Offset": str(offset)}, body)

    async def head(self, url: str) -> tuple[int, Any, str]:
        return await self.send("HEAD", url, TUS)

    async def row(self, url: str) -> Upload:
        return await self.rig.row(url)

    async def state(self, url: str) -> State:
        return (await self.row(url)).state


@pytest.fixture
async def scene(tmp_path, start) -> AsyncIterator[Callable[..., Awaitable[Scene]]]:
    """Make a scene; arguments are those of `Asked`, and of `HttpHookConfig` with the prefix `http_`."""
    async with AsyncExitStack() as stack:

        async def make(given: HookServer | None = None, *, finish_wait: float = 25.0, **settings: Any) -> Scene:
            server = await stack.enter_async_context(hook_server()) if given is None else given
            http = {
                name.removeprefix("http_"): settings.pop(name) for name in list(settings) if name.startswith("http_")
            }
            allowed = server.receiver.allowed
            receiver = Receiver(url=server.receiver.url, secrets=(SECRET,), allowed=allowed)
            config = HttpHookConfig(**{"name": "app", "receiver": receiver, "retries": 0, "backoff": 0.01, **http})
            asked = Asked(**{"hook": HttpHook(config), "moments": frozenset(Moment), "timeout": 10.0, **settings})
            hooks = Hooks([asked])
            stack.push_async_callback(hooks.close)
            rig = await start(WebConfig(is_open=True), hooks=hooks, finish_wait=finish_wait)
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Scene(rig, server, session)

        yield make


class TestCreation:
    async def test_the_question_is_the_one_of_tusd(self, scene) -> None:
        made = await scene()
        url = await made.create(**{"Upload-Metadata": metadata(filename="a.txt", project="7")})
        question = made.server.questions[0]
        upload, request = question["Event"]["Upload"], question["Event"]["HTTPRequest"]
        assert question["Type"] == "pre-create"
        assert upload == {
            "ID": "",
            "Size": 5,
            "SizeIsDeferred": False,
            "Offset": 0,
            "MetaData": {"filename": "a.txt", "project": "7"},
            "IsPartial": False,
            "IsFinal": False,
            "PartialUploads": None,
            "Storage": None,
        }
        assert (request["Method"], request["URI"]) == ("POST", "/files")
        assert request["RemoteAddr"].startswith("127.0.0.1:")
        assert request["Header"]["Tus-Resumable"] == ["1.0.0"]
        assert question["Event"]["Principal"] == {"Tenant": "default", "Owner": ""}
        assert await made.state(url) is State.UPLOADING

    async def test_it_is_signed_as_webhooks_are(self, scene) -> None:
        made = await scene()
        await made.create()
        request = made.server.receiver.received[0]
        assert Webhook(SECRET).verify(request.body, request.headers)["Type"] == "pre-create"
        assert request.headers["content-type"] == "application/json"

    async def test_credentials_go_to_hooks_whose_operator_has_listed_them_and_to_no_others(self, scene) -> None:
        made = await scene()
        await made.create(Authorization="Bearer secret", Cookie="session=secret")
        assert "secret" not in json.dumps(made.server.questions)
        assert "authorization" not in made.server.receiver.received[0].headers

    async def test_listed_headers_are_in_the_question_and_beside_it(self, scene) -> None:
        made = await scene(http_forwarded=("Cookie", "X-User"))
        await made.create(Authorization="Bearer secret", Cookie="session=1", **{"X-User": "eve"})
        request = made.server.receiver.received[0]
        assert (request.headers["cookie"], request.headers["x-user"]) == ("session=1", "eve")
        seen = made.server.event("pre-create")["HTTPRequest"]["Header"]
        assert (seen["Cookie"], seen["X-User"]) == (["session=1"], ["eve"])
        assert "Authorization" not in seen

    async def test_a_client_cannot_make_a_hook_silent_by_what_it_sends(self, scene) -> None:
        """Else it would pass by a hook that is open when it does not answer."""
        made = await scene(http_forwarded=("X-User",), is_open=True)
        made.server.answers["pre-create"] = REFUSAL
        fields = {**TUS, "Upload-Length": "5", "X-User": "\udcff", "X-Other": "\udcff", "Content-Length": "0"}
        async with made.rig.client.connect() as connection:
            connection.send_head("POST", "/files", fields)
            assert (await connection.answer()).status == 403
        json.dumps(made.server.event("pre-create"), ensure_ascii=False).encode()  # text, and no half characters

    async def test_an_answer_that_is_no_text_breaks_nothing(self, scene) -> None:
        made = await scene(moments=frozenset({Moment.CREATE}))
        made.server.answers["pre-create"] = {"HTTPResponse": {"Body": "half \ud800"}}
        await made.create()

    async def test_a_refusal_leaves_nothing_and_the_client_sees_it_in_the_words_of_the_hook(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-create"] = REFUSAL
        code, headers, text = await made.send("POST", made.url, {**TUS, "Upload-Length": "5"})
        assert (code, text) == (403, '{"message":"no project 1234"}')
        assert (headers["Content-Type"], headers["X-Project"]) == ("application/json", "1234")
        assert "X-Project" in headers["Access-Control-Expose-Headers"]
        assert headers["Cache-Control"] == "no-store"
        assert sum((await made.rig.database.count_by_state()).values()) == 0
        assert await made.rig.objects() == []

    async def test_a_server_that_packs_its_answers_for_who_can_unpack_them_is_understood(self, scene) -> None:
        made = await scene()

        async def packed(request: Received, writer: asyncio.StreamWriter) -> None:
            accepts = "gzip" in request.headers.get("accept-encoding", "")
            body = json.dumps(REFUSAL).encode()
            coding, body = ("gzip", gzip.compress(body)) if accepts else ("identity", body)
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)

        made.server.answers["pre-create"] = packed
        assert (await made.send("POST", made.url, {**TUS, "Upload-Length": "5"}))[0] == 403

    async def test_a_refusal_that_says_no_more_is_a_400(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-create"] = {"RejectUpload": True, "HTTPResponse": {"StatusCode": 204}}
        code, _, text = await made.send("POST", made.url, {**TUS, "Upload-Length": "5"})
        assert (code, text) == (400, "refused_by_hook: the hook app refused it\n")

    @pytest.mark.parametrize(
        "name", ["Location", "Upload-Offset", "Content-Length", "Set-Cookie", "X-Request-ID", "x y"]
    )
    async def test_headers_of_the_protocols_are_not_the_hooks_to_set(self, scene, name: str) -> None:
        made = await scene()
        made.server.answers["pre-create"] = {"RejectUpload": True, "HTTPResponse": {"Header": {name: "77"}}}
        code, headers, _ = await made.send("POST", made.url, {**TUS, "Upload-Length": "5"})
        assert (code, headers.get(name) == "77") == (400, False)

    async def test_a_header_with_a_line_break_is_left_out(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-create"] = {
            "RejectUpload": True,
            "HTTPResponse": {"Header": {"X-A": "1\r\nSet-Cookie: a=b", "X-B": "2"}},
        }
        _, headers, _ = await made.send("POST", made.url, {**TUS, "Upload-Length": "5"})
        assert ("X-A" in headers, "Set-Cookie" in headers, headers["X-B"]) == (False, False, "2")

    async def test_metadata_of_the_hook_take_the_place_of_the_clients(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-create"] = {
            "ChangeFileInfo": {"MetaData": {"filename": "b.png", "filetype": "image/png", "by": "hook"}}
        }
        url = await made.create(**{"Upload-Metadata": metadata(filename="a.txt")})
        _, headers, _ = await made.head(url)
        assert headers["Upload-Metadata"] == metadata(filename="b.png", filetype="image/png", by="hook")
        row = await made.row(url)
        assert (row.filename, row.content_type) == ("b.png", "image/png")

    async def test_an_id_and_a_path_of_the_hook_cannot_be_and_are_passed_by(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-create"] = {"ChangeFileInfo": {"ID": "../mine", "Storage": {"Path": "/etc/passwd"}}}
        assert "mine" not in await made.create()

    async def test_names_of_members_are_compared_as_go_does(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-create"] = {"rejectUpload": True, "httpResponse": {"statusCode": 418}}
        assert (await made.send("POST", made.url, {**TUS, "Upload-Length": "5"}))[0] == 418

    async def test_a_consent_may_add_headers_and_a_body(self, scene) -> None:
        made = await scene(moments=frozenset({Moment.CREATE}))
        made.server.answers["pre-create"] = COMMENT
        code, headers, text = await made.send("POST", made.url, {**TUS, "Upload-Length": "5"})
        assert (code, headers["X-From-Hook"], text) == (200, "hello", "some information")
        assert "Location" in headers
        assert "X-From-Hook" in headers["Access-Control-Expose-Headers"]

    async def test_a_client_that_has_left_meanwhile_gets_no_upload(self, scene) -> None:
        made = await scene()
        made.server.held = {"pre-create"}
        async with made.rig.client.connect() as connection:
            connection.send_head("POST", "/files", {**TUS, "Upload-Length": "5", "Content-Length": "0"})
            await until(lambda: _true(made.server.asked == ["pre-create"]))
        made.server.held = set()
        await asyncio.sleep(0)
        made.server.go_on.set()
        url = await made.create()  # the next one is made, so the first one is over
        assert (await made.rig.count(), await made.state(url)) == (1, State.UPLOADING)

    async def test_partials_and_finals_say_what_they_are(self, scene) -> None:
        made = await scene()
        partials = [await made.create(**{"Upload-Concat": "partial"}) for _ in range(2)]
        assert made.server.event("pre-create")["Upload"]["IsPartial"] is True
        for url in partials:
            assert (await made.patch(url, b"hello"))[0] == 204
        assert "pre-finish" not in made.server.asked
        code, headers, text = await made.send("POST", made.url, {**TUS, "Upload-Concat": "final;" + " ".join(partials)})
        assert code == 201, text
        ids = [url.rsplit("/", 1)[1] for url in partials]
        for kind in ("pre-create", "pre-finish"):
            upload = made.server.event(kind)["Upload"]
            assert (upload["IsFinal"], upload["PartialUploads"], upload["Size"]) == (True, ids, 10)
        assert await made.rig.stored(headers["Location"]) == b"hellohello"

    async def test_a_final_that_is_asked_for_again_is_the_same_also_with_metadata_of_the_hook(self, scene) -> None:
        made = await scene()
        partial = await made.create(**{"Upload-Concat": "partial"})
        await made.patch(partial, b"hello")
        made.server.answers["pre-create"] = {"ChangeFileInfo": {"MetaData": {"by": "hook"}}}
        fields = {**TUS, "Upload-Concat": f"final;{partial}"}
        first, second = [(await made.send("POST", made.url, fields))[1]["Location"] for _ in range(2)]
        assert first == second
        assert (await made.head(first))[1]["Upload-Metadata"] == metadata(by="hook")


async def _true(value: bool) -> bool:
    return value


class TestFinishing:
    @pytest.mark.parametrize("size", [0, 5, 100_000, 11 << 20])
    async def test_it_is_asked_before_the_object_is_there(self, scene, size: int) -> None:
        made = await scene(moments=frozenset({Moment.FINISH}))
        found: list[list[str]] = []

        async def look(_request: Received, writer: asyncio.StreamWriter) -> None:
            found.append([key for key in await made.rig.objects() if not key.startswith(".")])
            writer.write(status(200, "X: y").replace(b"Content-Length: 0\r\n\r\n", b"Content-Length: 2\r\n\r\n{}"))
            await writer.drain()

        made.server.answers["pre-finish"] = look
        body = bytes(size)
        code, headers, _ = await made.send("POST", made.url, {**BYTES, "Upload-Length": str(size)}, body)
        assert code == 201
        url = headers["Location"]
        upload = made.server.event("pre-finish")["Upload"]
        assert (upload["ID"], upload["Size"], upload["Offset"]) == (url.rsplit("/", 1)[1], size, size)
        assert [UploadId(url.rsplit("/", 1)[1]) in keys for keys in found] == [False]
        assert await made.state(url) is State.COMPLETE
        assert await made.rig.stored(url) == body
        assert made.server.asked == ["pre-finish"]

    async def test_a_refusal_lets_the_upload_fail_and_says_who_has_refused_it(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-finish"] = REFUSAL
        url = await made.create()
        code, headers, text = await made.patch(url, b"hello")
        assert (code, text) == (403, '{"message":"no project 1234"}')
        assert "X-Project" in headers["Access-Control-Expose-Headers"]
        row = await made.row(url)
        assert (row.state, row.reason) == (State.FAILED, "the hook app refused it")
        assert (await made.head(url))[0] == 410

    async def test_its_answer_goes_to_the_client_with_the_last_byte(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-finish"] = COMMENT
        url = await made.create()
        code, headers, text = await made.patch(url, b"hello")
        assert (code, text, headers["X-From-Hook"], headers["Upload-Offset"]) == (200, "some information", "hello", "5")

    async def test_a_status_that_is_no_success_does_not_make_a_failure_of_one(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-finish"] = {"HTTPResponse": {"StatusCode": 500, "Body": "broken"}}
        assert (await made.patch(await made.create(), b"hello"))[0] == 204

    async def test_a_closed_hook_that_is_away_puts_it_off_and_no_byte_is_lost(self, scene) -> None:
        made = await scene(finish_wait=0.2)
        made.server.answers["pre-finish"] = 500
        url = await made.create()
        code, _, text = await made.patch(url, b"hello")
        assert code == 423, text
        assert await made.state(url) is State.SEALED
        assert (await made.head(url))[0] == 423
        conflict, told, _ = await made.patch(url, b"hello")
        assert conflict == 409
        assert "Upload-Offset" not in told  # TUSKit would take the length for success
        made.server.answers.clear()
        await until(lambda: _is(made, url, State.COMPLETE))
        assert (await made.head(url))[1]["Upload-Offset"] == "5"
        assert await made.rig.stored(url) == b"hello"

    async def test_success_is_not_promised_while_a_hook_thinks(self, scene) -> None:
        made = await scene(finish_wait=0.1)
        made.server.held = {"pre-finish"}
        url = await made.create()
        assert (await made.patch(url, b"hello"))[0] == 423
        made.server.go_on.set()
        await until(lambda: _is(made, url, State.COMPLETE))

    async def test_an_open_hook_that_is_away_is_passed_by(self, scene) -> None:
        made = await scene(is_open=True)
        made.server.answers = {"pre-create": 500, "pre-finish": b"garbage", "pre-terminate": 404}
        url = await made.create()
        assert (await made.patch(url, b"hello"))[0] == 204
        assert (await made.send("DELETE", url, TUS))[0] == 204


async def _is(made: Scene, url: str, state: State) -> bool:
    return await made.state(url) is state


class TestTermination:
    async def test_a_refusal_leaves_everything_as_it_was(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-terminate"] = REFUSAL
        url = await made.create()
        await made.patch(url, b"hello")
        code, _, text = await made.send("DELETE", url, TUS)
        assert (code, text) == (403, '{"message":"no project 1234"}')
        assert await made.state(url) is State.COMPLETE
        assert await made.rig.stored(url) == b"hello"
        event = made.server.event("pre-terminate")
        assert (event["HTTPRequest"]["Method"], event["Upload"]["Offset"]) == ("DELETE", 5)

    async def test_the_api_asks_too_for_one_file_and_for_many(self, scene) -> None:
        made = await scene()
        urls = [await made.create() for _ in range(2)]
        ids = [url.rsplit("/", 1)[1] for url in urls]
        made.server.answers["pre-terminate"] = REFUSAL
        api = made.url.replace("/files", "/api/v1/files")
        json_type = {"Content-Type": "application/json"}
        fields = {"Origin": f"http://127.0.0.1:{made.rig.client.port}"}
        code, _, text = await made.send("DELETE", f"{api}/{ids[0]}", fields)
        assert (code, text) == (403, '{"message":"no project 1234"}')
        code, _, text = await made.send("POST", f"{api}/delete", fields | json_type, json.dumps({"ids": ids}).encode())
        assert [each["outcome"] for each in json.loads(text)["results"]] == ["refused", "refused"]
        made.server.answers.clear()
        assert (await made.send("DELETE", f"{api}/{ids[0]}", fields))[0] == 204

    async def test_what_became_of_many_files_is_told_whatever_a_hook_has_to_say(self, scene) -> None:
        made = await scene()
        made.server.answers["pre-terminate"] = COMMENT
        ids = [(await made.create()).rsplit("/", 1)[1]]
        api = made.url.replace("/files", "/api/v1/files")
        fields = {"Origin": f"http://127.0.0.1:{made.rig.client.port}", "Content-Type": "application/json"}
        _, headers, text = await made.send("POST", f"{api}/delete", fields, json.dumps({"ids": ids}).encode())
        assert headers["X-From-Hook"] == "hello"
        assert [each["outcome"] for each in json.loads(text)["results"]] == ["deleted"]

    async def test_what_is_gone_is_not_asked_about(self, scene) -> None:
        made = await scene()
        url = await made.create()
        assert [(await made.send("DELETE", url, TUS))[0] for _ in range(2)] == [204, 410]
        assert made.server.asked.count("pre-terminate") == 1


class TestOtherProtocols:
    async def test_a_plain_upload_goes_through_all_hooks_and_shows_its_name(self, scene) -> None:
        made = await scene()
        code, headers, _ = await made.send("PUT", f"{made.url}/a.txt", {"Content-Type": "text/plain"}, b"hello")
        assert (code, made.server.asked) == (201, ["pre-create", "pre-finish"])
        assert made.server.event("pre-create")["Upload"]["MetaData"] == {"filename": "a.txt", "filetype": "text/plain"}
        assert await made.state(headers["Location"]) is State.COMPLETE

    @pytest.mark.parametrize("kind", ["pre-create", "pre-finish"])
    async def test_a_refused_plain_upload_leaves_no_file(self, scene, kind: str) -> None:
        made = await scene()
        made.server.answers[kind] = REFUSAL
        code, _, text = await made.send("PUT", f"{made.url}/a.txt", {}, b"hello")
        assert (code, text) == (403, '{"message":"no project 1234"}')
        assert await made.rig.count() == 0

    async def test_rufh_goes_through_all_hooks(self, scene) -> None:
        made = await scene()
        draft = {"Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1"}
        code, headers, _ = await made.send("POST", made.url, draft, b"hello")
        assert (code, made.server.asked) == (201, ["pre-create", "pre-finish"])
        made.server.answers["pre-terminate"] = REFUSAL
        code, _, text = await made.send("DELETE", headers["Location"], {"Upload-Draft-Interop-Version": "6"})
        assert (code, text) == (403, '{"message":"no project 1234"}')

    @pytest.mark.parametrize("kind", ["pre-create", "pre-finish"])
    async def test_a_refused_upload_of_rufh_is_told_so(self, scene, kind: str) -> None:
        made = await scene()
        made.server.answers[kind] = REFUSAL
        draft = {"Upload-Draft-Interop-Version": "6", "Upload-Complete": "?1"}
        code, _, text = await made.send("POST", made.url, draft, b"hello")
        assert (code, text) == (403, '{"message":"no project 1234"}')


async def redirect(_request: Received, writer: asyncio.StreamWriter) -> None:
    writer.write(status(307, "Location: http://127.0.0.1:1/"))


async def five_megabytes(_request: Received, writer: asyncio.StreamWriter) -> None:
    body = b'{"RejectUpload": false, "x": "' + b"x" * (5 << 20) + b'"}'
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


async def hang_up(_request: Received, writer: asyncio.StreamWriter) -> None:
    writer.close()


class TestNoAnswer:
    @pytest.mark.parametrize(
        "answer",
        [
            b"garbage",
            b"[]",
            b"",
            b"[" * 100_000,
            {"RejectUpload": "yes"},
            {"HTTPResponse": {"StatusCode": "400"}},
            {"HTTPResponse": {"Header": {"X": 1}}},
            {"ChangeFileInfo": {"MetaData": {"a b": "c"}}},
            {"ChangeFileInfo": {"MetaData": {"a": "x" * 20_000}}},
            404,
            redirect,
            five_megabytes,
            hang_up,
        ],
        ids=lambda answer: getattr(answer, "__name__", str(answer)[:30]),
    )
    @pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
    async def test_what_cannot_be_understood_is_no_answer(self, scene, answer: object, is_open: bool) -> None:
        """EV-09, EV-11."""
        made = await scene(is_open=is_open)
        made.server.answers["pre-create"] = answer
        code, headers, text = await made.send("POST", made.url, {**TUS, "Upload-Length": "5"})
        if is_open:
            assert code == 201
        else:
            assert (code, headers["Retry-After"]) == (503, "5")
            assert text == "hook_unavailable: the hook app does not answer\n"
            assert sum((await made.rig.database.count_by_state()).values()) == 0

    async def test_silence_is_none_either(self, scene) -> None:
        made = await scene(timeout=0.05)
        made.server.held = {"pre-create"}
        assert (await made.send("POST", made.url, {**TUS, "Upload-Length": "5"}))[0] == 503

    async def test_a_closed_hook_that_is_away_keeps_an_upload_from_being_deleted(self, scene) -> None:
        made = await scene()
        url = await made.create()
        made.server.answers["pre-terminate"] = 500
        assert (await made.send("DELETE", url, TUS))[0] == 503
        assert await made.state(url) is State.UPLOADING

    async def test_a_connection_that_fails_and_a_5xx_are_tried_again_under_one_id(self, scene) -> None:
        made = await scene(http_retries=3)
        answers: list[object] = [hang_up, 500, {}]

        async def one_after_the_other(request: Received, writer: asyncio.StreamWriter) -> None:
            made.server.answers["pre-create"] = answers.pop(0)
            await made.server.answer(request, writer)
            made.server.answers["pre-create"] = one_after_the_other

        made.server.answers["pre-create"] = one_after_the_other
        await made.create()
        assert len(made.server.receiver.received) == 3
        assert len({request.headers["webhook-id"] for request in made.server.receiver.received}) == 1

    async def test_a_4xx_is_not_tried_again(self, scene) -> None:
        made = await scene(http_retries=3)
        made.server.answers["pre-create"] = 404
        assert (await made.send("POST", made.url, {**TUS, "Upload-Length": "5"}))[0] == 503
        assert len(made.server.receiver.received) == 1

    async def test_a_hook_in_the_own_network_is_not_asked_unless_it_is_allowed(self, scene) -> None:
        """EV-11."""
        async with hook_server() as server:
            receiver = Receiver(url=server.receiver.url, secrets=())
            made = await scene(server, http_receiver=receiver)
            assert (await made.send("POST", made.url, {**TUS, "Upload-Length": "5"}))[0] == 503
            assert server.receiver.received == []


async def test_only_uploads_of_its_tenants_are_a_hooks_business(scene) -> None:
    made = await scene(tenants=frozenset({"acme"}))
    made.server.answers["pre-create"] = REFUSAL
    await made.create()
    assert made.server.asked == []
