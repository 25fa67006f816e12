"""`tusgate upload`: files to a tus server, or straight to S3, with progress bars, from a terminal or a script."""

from __future__ import annotations

import asyncio
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Self

import aiohttp
import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from tusgate.cli.direct_client import DirectClient
from tusgate.cli.direct_transfer import upload_directly
from tusgate.cli.exits import Exit
from tusgate.cli.instant import have_instantly
from tusgate.cli.resume import ResumeStore
from tusgate.cli.sending import TransferError
from tusgate.cli.transfer import Plan, upload_file, upload_stream
from tusgate.cli.tus_client import TusClient
from tusgate.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    Bring = Callable[[str, "_Bar"], Awaitable[str]]

STDIN: Final = "-"
CONNECT_TIMEOUT: Final = 20.0


def upload(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Files to upload; - is stdin.")],
    *,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where uploads are created; else TUSGATE_PUBLIC_URL or this machine's gateway, with its path."
            " With --direct the address of /api/v1/uploads.",
        ),
    ] = None,
    direct: Annotated[
        bool, typer.Option("--direct", help="Send the parts straight to S3, by URLs that the gateway signs.")
    ] = False,
    instant: Annotated[
        bool,
        typer.Option(
            "--instant", help="With --direct: do not send files that the server has already, if you prove to have them."
        ),
    ] = False,
    sync: Annotated[
        bool,
        typer.Option("--sync", help="With --direct: send only parts that no file of yours has."),
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, max=64, help="Files on their way at once.")] = 3,
    chunk_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Most bytes of one request, such as 64MiB, for proxies that limit it; else the whole file goes in one."
            " With --direct the size of a part that is wished for.",
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata for each upload; repeatable.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Header for each request, such as Authorization; repeatable."),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="Tries without progress before giving up.")] = 8,
) -> None:
    """Upload files; print the URL of each to stdout. The same command goes on after Ctrl-C or a failure."""
    plan = Plan(_chunk_size(chunk_size), retries, _pairs("--metadata", metadata))
    if direct and STDIN in files:
        raise typer.BadParameter("a pipe has no parts that could be sent again: leave --direct out", param_hint="-")
    if instant and not direct:
        raise typer.BadParameter("expected --direct beside it", param_hint="--instant")
    if sync and not direct:
        raise typer.BadParameter("only direct uploads know parts of files: add --direct", param_hint="--sync")
    where = endpoint or _own_endpoint(direct=direct)
    batch = _Batch(where, plan, _pairs("--header", header), parallel, direct=direct, instant=instant, sync=sync)
    try:
        failed = asyncio.run(batch.run(list(dict.fromkeys(files))))
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on where it stopped.", file=sys.stderr)
        raise
    if failed:
        sys.exit(Exit.FAILED)


def _own_endpoint(*, direct: bool) -> str:
    settings = load_settings().settings
    return settings.direct_url if direct else settings.endpoint_url


def _chunk_size(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size < 1:
        raise typer.BadParameter(f"expected a size such as 64MiB, got {text!r}", param_hint="--chunk-size")
    return size


def _pairs(flag: str, items: Iterable[str] | None) -> dict[str, str]:
    pairs = [item.partition("=") for item in items or ()]
    for key, equals, value in pairs:
        if not key or not equals or not key.isascii() or any(letter in " ,\r\n" for letter in key):
            raise typer.BadParameter(f"expected KEY=VALUE, got {key + equals + value!r}", param_hint=flag)
    return {key: value for key, _, value in pairs}


class _Batch:
    """All files of one command."""

    def __init__(
        self,
        endpoint: str,
        plan: Plan,
        headers: dict[str, str],
        parallel: int,
        *,
        direct: bool,
        instant: bool,
        sync: bool,
    ) -> None:
        self._endpoint = endpoint
        self._plan = plan
        self._headers = headers
        self._room = asyncio.Semaphore(parallel)
        self._store = ResumeStore(endpoint)
        self._direct = direct
        self._instant = instant
        self._sync = sync
        self._failed = 0

    async def run(self, files: Sequence[str]) -> int:
        """Upload all `files`; one that fails does not stop the others. Return how many failed."""
        with _progress() as progress:
            async with _session(self._headers) as session, _session({}) as store, asyncio.TaskGroup() as group:
                bring = self._straight_to(session, store) if self._direct else self._through(session)
                for name in files:
                    group.create_task(self._upload(bring, name, progress))
        return self._failed

    def _through(self, session: aiohttp.ClientSession) -> Bring:
        client = TusClient(session, self._endpoint)

        async def bring(name: str, bar: _Bar) -> str:
            if name == STDIN:
                return await upload_stream(client, sys.stdin.buffer, self._plan, bar)
            bar.total(_size_of(Path(name)))
            return await upload_file(client, Path(name), self._plan, self._store, bar)

        return bring

    def _straight_to(self, session: aiohttp.ClientSession, store: aiohttp.ClientSession) -> Bring:
        client = DirectClient(session, store, self._endpoint)

        async def bring(name: str, bar: _Bar) -> str:
            path = Path(name)
            bar.total(_size_of(path))
            known = await have_instantly(client, path, self._plan, self._store, bar) if self._instant else None
            return known or await upload_directly(client, path, self._plan, self._store, bar, sync=self._sync)

        return bring

    async def _upload(self, bring: Bring, name: str, progress: Progress) -> None:
        async with self._room:
            with _Bar(progress, name) as bar:
                try:
                    url = await bring(name, bar)
                except (TransferError, OSError) as error:
                    self._failed += 1
                    bar.failed(_reason(error))
                else:
                    bar.finished()
                    # With live bars on the same terminal the URL has to go above them.
                    if sys.stdout.isatty():
                        progress.console.print(url, soft_wrap=True, highlight=False)
                    else:
                        print(url, flush=True)


def _session(headers: dict[str, str]) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
    return aiohttp.ClientSession(
        headers=headers,
        timeout=timeout,
        trust_env=True,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),  # how many files and parts go at once is decided elsewhere
    )


class _Bar:
    """The progress bar of one file; a `Watcher`."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = "stdin" if name == STDIN else Path(name).name
        self._task: TaskID = progress.add_task(self._name, total=None, note="")
        self._moving = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop_task(self._task)

    def total(self, size: int) -> None:
        self._progress.update(self._task, total=size)

    def moved(self, offset: int) -> None:
        if not self._moving:
            # What an earlier command has sent must not count as this one's speed.
            self._progress.reset(self._task, completed=offset)
            self._moving = True
        self._progress.update(self._task, completed=offset, note="")

    def waiting(self, seconds: float, reason: str) -> None:
        self._progress.update(self._task, note=f"{reason}; again in {seconds:.0f} s")
        if not self._progress.console.is_terminal:
            self._say(f"{reason}; trying again in {seconds:.1f} s")

    def finished(self) -> None:
        task = self._progress.tasks[self._task]
        self._progress.update(self._task, total=task.completed if task.total is None else task.total)
        self._progress.update(self._task, completed=self._progress.tasks[self._task].total, note="")

    def failed(self, reason: str) -> None:
        self._progress.update(self._task, note="failed")
        self._say(reason)

    def _say(self, text: str) -> None:
        self._progress.console.print(f"{self._name}: {text}", markup=False, highlight=False, soft_wrap=True)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=console,
        disable=not console.is_terminal,
    )


def _size_of(path: Path) -> int:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise TransferError("not a file")
    return found.st_size


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
