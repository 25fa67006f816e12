"""Direct uploads: one file as parallel parts past the gateway, and through it, and how many URLs it signs."""

from __future__ import annotations

import http.client
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rich.table import Table

from bench.contenders import cpu_seconds, peak_rss, tusgate
from bench.load import BLOCK, Connection, patch_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from bench.contenders import TusServer
    from tests.servers.s3 import S3Server

MIB = 1 << 20
GIB = 1 << 30
PART_SIZE = 8 * MIB
AT_ONCE = (1, 4, 8)
URLS = 1000
"""URLs in one answer, as many as are allowed."""
UPLOADS = "/api/v1/uploads"


def show_direct(console: Console, home: Path, store: S3Server, *, size: int, rounds: int, answers: int) -> None:
    """Measure and print.

    Args:
        console: to print on.
        home: an empty directory.
        store: where the files go.
        size: bytes of a file.
        rounds: of all ways, interleaved; medians are shown.
        answers: of `URLS` URLs each.
    """
    bucket = store.make_bucket("direct-door")
    with tusgate("tusgate", home / "gateway", store, bucket, {"TUSGATE_DIRECT": "on"}) as server:
        show_ways(console, server, store, bucket, size, rounds)
        show_signing(console, server, answers)


def show_ways(console: Console, server: TusServer, store: S3Server, bucket: str, size: int, rounds: int) -> None:
    """Print how fast one file is, and what the gateway spends on it."""
    port, base = server.address
    ways: dict[str, Callable[[], str]] = {
        "through the gateway (tus)": partial(_through, int(port), base, size),
        **{f"direct, {count} at once": partial(_direct, int(port), size, count) for count in AT_ONCE},
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    used: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):  # the first one warms everything
        for name, way in ways.items():
            before, begin = cpu_seconds(server.pid), time.perf_counter()
            key = way()
            if number:
                seconds[name].append(time.perf_counter() - begin)
                used[name].append(cpu_seconds(server.pid) - before)
            client = store.client()
            assert client.stat_object(bucket_name=bucket, object_name=key).size == size, name
            client.remove_object(bucket_name=bucket, object_name=key)
    table = Table(title=f"one file of {size // MIB} MiB", title_justify="left")
    for heading in ("", "MB/s", "of tus", "gateway CPU-s/GiB"):
        table.add_column(heading, justify="right" if heading else "left")
    floor = statistics.median(next(iter(seconds.values())))
    for name in ways:
        took = statistics.median(seconds[name])
        cpu = statistics.median(used[name]) / (size / GIB)
        table.add_row(name, f"{size / took / 1e6:.0f}", f"{floor / took:.2f}", f"{cpu:.3f}")
    console.print(table)
    console.print(f"peak RSS {peak_rss(server.pid) / MIB:.0f} MiB", highlight=False)


def show_signing(console: Console, server: TusServer, answers: int) -> None:
    """Print how many URLs the gateway signs: by the clock, and by its CPU, since this program needs some too."""
    port = int(server.address[0])
    begun = _ask(port, "POST", UPLOADS, {"size": 10_000 * PART_SIZE, "part_size": PART_SIZE, "urls": 0})
    path = urlsplit(begun["upload"]["links"]["urls"]).path
    body = json.dumps({"parts": list(range(1, URLS + 1))})
    with _connected(port) as connection:
        _count_urls(connection, path, body)
        before, begin = cpu_seconds(server.pid), time.perf_counter()
        made = sum(_count_urls(connection, path, body) for _ in range(answers))
        took, cpu = time.perf_counter() - begin, cpu_seconds(server.pid) - before
    told = f"{made:,} URLs signed: {made / took:,.0f} a second by the clock, {made / cpu:,.0f} a second of one core"
    console.print(told, highlight=False)


def _through(port: int, base: str, size: int) -> str:
    connection = Connection(port)
    location = connection.create(base, size)
    done = connection.ask("PATCH", location, patch_fields(0, size), size)
    assert done.startswith("HTTP/1.1 204"), done
    connection.socket.close()
    return location.rpartition("/")[2]


def _direct(port: int, size: int, at_once: int) -> str:
    """Send one file as parts, `at_once` on connections of their own; return the key of its object."""
    begun = _ask(port, "POST", UPLOADS, {"size": size, "part_size": PART_SIZE, "urls": URLS})
    waiting = iter(begun["parts"]["urls"])
    store = urlsplit(begun["parts"]["urls"][0]["url"]).netloc

    def send() -> None:
        connection = http.client.HTTPConnection(store, timeout=60)
        for part in waiting:
            _put(connection, part)
        connection.close()

    with ThreadPoolExecutor(at_once) as pool:
        for sent in [pool.submit(send) for _ in range(at_once)]:
            sent.result()
    done = _ask(port, "POST", urlsplit(begun["upload"]["links"]["complete"]).path, {})
    assert done["state"] == "complete", done
    return str(done["id"])


def _put(connection: http.client.HTTPConnection, part: dict[str, Any]) -> None:
    address = urlsplit(part["url"])
    headers = {**part["headers"], "Content-Length": str(part["size"])}
    body = (BLOCK[: min(len(BLOCK), part["size"] - start)] for start in range(0, part["size"], len(BLOCK)))
    connection.request("PUT", f"{address.path}?{address.query}", body, headers)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == http.HTTPStatus.OK, answer.status


def _count_urls(connection: http.client.HTTPConnection, path: str, body: str) -> int:
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    count = answer.read().count(b"X-Amz-Signature")
    assert count == URLS, (answer.status, count)
    return count


def _ask(port: int, method: str, path: str, body: object) -> Any:
    with _connected(port) as connection:
        connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < http.HTTPStatus.BAD_REQUEST, text
        return json.loads(text)


@contextmanager
def _connected(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        yield connection
    finally:
        connection.close()
