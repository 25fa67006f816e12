"""Parallel uploads by real clients: how often each byte is moved, and what a cut or a lost answer does.

The ways are those of ARCHITECTURE.md, "Concatenation". What moves is read from a proxy between gateway and store.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import aiotus
import pytest

from tests.clients.payload import MIB
from tests.clients.readme import blocks
from tests.clients.watched import Watched, in_background, watching
from tests.fault.proxy import DropAnswer, S3FaultProxy
from tests.fault.tcp import TcpFaultProxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.clients.deployment import Deployment
    from tests.clients.payload import Payload
    from tests.clients.tus_js import TusJs
    from tests.gateway import Gateway
    from tests.servers.s3 import S3Server

    Start = Callable[..., AbstractContextManager[Watched]]

pytestmark = [pytest.mark.clients, pytest.mark.slow]

PARTIALS = 4
SIZE = 44 * MIB + 3
"""Four partials of 11 MiB, each two parts of 5 and 6 MiB."""
NO_COPIES = {"TUSGATE_S3_PROFILE": "generic"}


@pytest.fixture
def start(minio: S3Server, bucket: str, database_url: str, start_gateway: Callable[..., Gateway]) -> Start:
    """Start a gateway: `with start(settings) as watched`."""

    @contextmanager
    def start(settings: dict[str, str] | None = None) -> Iterator[Watched]:
        with watching(minio, bucket, database_url, start_gateway, settings) as watched:
            yield watched

    return start


def the_snippet() -> str:
    (snippet,) = (block for block in blocks("js") if "parallelUploads" in block)
    return snippet


def without_lengths(snippet: str) -> str:
    (line,) = re.findall(r"^ *'concat-lengths': .*\n", snippet, re.MULTILINE)
    return snippet.replace(line, "")


def ungrouped() -> dict[str, Any]:
    return {"parallelUploads": PARTIALS}


def grouped(size: int) -> dict[str, Any]:
    """Return what the snippet of the README has: boundaries that tell the partials apart."""
    step = size // PARTIALS
    ends = [0, *(number * step + number**2 for number in range(1, PARTIALS)), size]
    lengths = [end - start for start, end in pairwise(ends)]
    return ungrouped() | {
        "parallelUploadBoundaries": [{"start": start, "end": end} for start, end in pairwise(ends)],
        "metadataForPartialUploads": {"concat-group": "one file", "concat-lengths": ",".join(map(str, lengths))},
    }


def test_the_snippet_of_the_readme_moves_every_byte_once(
    start: Start, payload: Callable[[int], Payload], tus_js: TusJs
) -> None:
    file = payload(SIZE)
    with start() as watched:
        run = tus_js.snippet(the_snippet(), watched.url, file)
        watched.check(run.url, file)
        assert watched.moved == (SIZE, 0, 0)
        (complete,) = watched.calls.of("CompleteMultipartUpload")
        assert len(complete.listed_parts) == 2 * PARTIALS


def test_without_lengths_the_bytes_are_copied_only_if_the_partials_came_in_another_order(
    start: Start, payload: Callable[[int], Payload], tus_js: TusJs
) -> None:
    """Which one of four requests comes first is not for the client to say."""
    file = payload(SIZE)
    with start() as watched:
        run = tus_js.snippet(without_lengths(the_snippet()), watched.url, file)
        watched.check(run.url, file)
        log = watched.deployment.gateway.log_path.read_text()
        (in_place,) = re.findall(r'"in_place": (true|false)', log)
        sent, copies, reads = watched.moved
        assert (sent, reads) == (SIZE, 0)
        assert (copies == 0) == (in_place == "true")


def test_the_snippet_of_the_readme_works_with_the_default_settings(
    embedded: Deployment, payload: Callable[[int], Payload], tus_js: TusJs
) -> None:
    file = payload(SIZE)
    run = tus_js.snippet(the_snippet(), embedded.gateway.url, file)
    assert embedded.stored_sha256(run.url) == file.sha256


def test_partials_that_nobody_groups_are_copied_by_the_store(
    start: Start, payload: Callable[[int], Payload], tus_js: TusJs
) -> None:
    file = payload(SIZE)
    with start() as watched:
        run = tus_js(watched.endpoint, file, options=ungrouped())
        watched.check(run.url, file)
        assert watched.moved == (SIZE, PARTIALS, 0)


@pytest.mark.parametrize("group", [False, True])
def test_where_the_store_does_not_copy_the_bytes_are_sent_again(
    start: Start, payload: Callable[[int], Payload], tus_js: TusJs, group: bool
) -> None:
    """But not those of a group: what is in place needs no copies."""
    file = payload(SIZE)
    with start(NO_COPIES) as watched:
        run = tus_js(watched.endpoint, file, options=grouped(SIZE) if group else ungrouped())
        watched.check(run.url, file)
        sent, copies, reads = watched.moved
        assert (sent, copies, reads > 0) == ((SIZE, 0, False) if group else (2 * SIZE, 0, True))


@pytest.mark.parametrize(
    ("group", "settings"),
    [(True, {}), (False, {}), (False, NO_COPIES)],
    ids=["in place", "copied", "streamed"],
)
def test_connections_that_are_cut_in_the_middle_are_healed_by_the_client_itself(
    start: Start, payload: Callable[[int], Payload], tus_js: TusJs, group: bool, settings: dict[str, str]
) -> None:
    file = payload(SIZE)
    with start(settings) as watched, in_background(TcpFaultProxy("127.0.0.1", watched.deployment.gateway.port)) as line:
        cut = line.cut("up", after=7 * MIB, times=PARTIALS)
        endpoint = f"http://{line.host}:{line.port}/files"
        run = tus_js(endpoint, file, options=grouped(SIZE) if group else ungrouped())
        assert (run.done, cut.times) == (True, 0)
        watched.check(run.url, file)
        assert (watched.calls.count("UploadPartCopy") > 0) is (not group and not settings)


@pytest.mark.parametrize("group", [True, False], ids=["in place", "copied"])
def test_a_lost_answer_to_the_final_makes_no_second_one(
    start: Start, payload: Callable[[int], Payload], tus_js: TusJs, group: bool
) -> None:
    """The client tells the error; started again it asks for its partials, and for the final once more."""
    file = payload(SIZE)
    with start() as watched, in_background(S3FaultProxy(watched.url)) as line:
        lost = line.on("Other", DropAnswer(), key="", nth=PARTIALS + 1)  # the POST after those of the partials
        run = tus_js(f"{line.url}/files", file, again=1, options=grouped(SIZE) if group else ungrouped())
        assert lost.fired == 1
        assert (run.done, run.count("PATCH")) == (True, PARTIALS)
        watched.check(run.url, file)
        assert watched.calls.count("UploadPartCopy") == (0 if group else PARTIALS)
        keys = watched.deployment.objects.keys()
        assert len(keys) == (1 if group else PARTIALS + 1)


@pytest.mark.filterwarnings("ignore:Sending a large body directly:ResourceWarning")
@pytest.mark.parametrize("name", ["production", "embedded"])
async def test_aiotus_uploads_several_files_as_one(
    request: pytest.FixtureRequest, name: str, payload: Callable[[int], Payload]
) -> None:
    """Its URLs are without host. The middle one is too small for a part, and one is empty."""
    deployment: Deployment = request.getfixturevalue(name)
    file = payload(SIZE)
    ends = [0, 20 * MIB, 20 * MIB, 21 * MIB, SIZE]
    parts = [io.BytesIO(file.bytes(start, end)) for start, end in pairwise(ends)]
    url = await aiotus.upload_multiple(deployment.gateway.endpoint, parts, {"filename": b"payload.bin"})
    assert url is not None
    assert deployment.stored_sha256(str(url)) == file.sha256
