"""Real processes that behave, hang, crash, lie and leave others behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.servers.process import wait_until
from tusgate.processors import Derived, ProcessorFailed, Result, Source, sandbox

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.usefixtures("plugged"), pytest.mark.slow]


def nothing(done: float) -> None:
    """Let the progress pass by."""


def telling(event: asyncio.Event) -> Callable[[float], None]:
    return lambda done: event.set()


def source_of(tmp_path: Path, content: bytes = b"some bytes") -> Source:
    path = tmp_path / "source"
    path.write_bytes(content)
    return Source(path, len(content), "text/plain", "notes\n../../x.txt")


async def run(
    name: str, tmp_path: Path, content: bytes = b"some bytes", progress: Callable[[float], None] = nothing
) -> Result:
    return await sandbox.run(name, source_of(tmp_path, content), tmp_path / "workspace", progress)


async def failure(name: str, tmp_path: Path, content: bytes = b"some bytes") -> tuple[str, bool]:
    with pytest.raises(ProcessorFailed) as failed:
        await run(name, tmp_path, content)
    return failed.value.reason, failed.value.permanent


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(*pids: int) -> None:
    assert len(pids) > 1
    wait_until(lambda: all(is_gone(pid) for pid in pids), "processes are left")


async def test_a_processor_sees_the_file_and_what_it_makes_comes_back(tmp_path: Path, workspace: Path) -> None:
    told: list[float] = []
    result = await run("copy", tmp_path, b"hello", told.append)
    assert result.derived == (Derived(workspace / "copy", "copy", "text/plain", "copy.txt"),)
    assert (workspace / "copy").read_bytes() == b"hello"
    assert result.facts == {"bytes": 5, "type": "text/plain", "name": "notes\n../../x.txt"}
    assert result.refused is None
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert 50 < len(told) <= 101, "a thousand steps are told as a hundred"


async def test_paths_may_be_relative(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    relative = Source(Path("source"), source.size, None, None)
    result = await sandbox.run("copy", relative, Path("workspace"), nothing)
    assert [made.path for made in result.derived] == [workspace / "copy"]


async def test_a_refusal_is_a_result(tmp_path: Path, workspace: Path) -> None:
    assert await run("refuse", tmp_path) == Result(refused="not wanted")


async def test_a_job_has_no_environment_but_the_one_it_is_given(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUSGATE_S3_SECRET_KEY", "not for you")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("PATH", f".{os.pathsep}relative{os.pathsep}{os.environ['PATH']}")
    source = source_of(tmp_path)
    result = await sandbox.run("surroundings", source, workspace, nothing, options={"TUSGATE_CLAMD": "/run/x"})
    environment: Any = result.facts["environment"]
    known = {"PATH", "PYTHONPATH", "HOME", "TMPDIR", "LANG", "MALLOC_ARENA_MAX", "TUSGATE_CLAMD"}
    assert {*environment} - known <= {"LC_CTYPE"}  # which Python sets itself
    assert environment["TUSGATE_CLAMD"] == "/run/x"
    assert result.facts["here"] == str(workspace)
    places: Any = result.facts["path"]
    assert str(workspace) not in [*places, *environment["PATH"].split(os.pathsep)]
    assert all(Path(place).is_absolute() for place in [*places, *environment["PATH"].split(os.pathsep)])


async def test_what_lies_in_the_workspace_is_never_imported(tmp_path: Path, workspace: Path) -> None:
    for name in ("json.py", "tusgate.py", "sitecustomize.py", "PIL.py"):
        (workspace / name).write_text("raise SystemExit(9)")
    assert (await run("copy", tmp_path)).derived


async def test_what_a_processor_says_of_a_file_is_the_reason(tmp_path: Path, workspace: Path) -> None:
    assert await failure("unable", tmp_path) == ("this cannot be read", True)


async def test_a_mistake_of_a_processor_is_told_with_its_place_and_tried_again(tmp_path: Path, workspace: Path) -> None:
    reason, permanent = await failure("mistaken", tmp_path)
    assert reason.startswith("KeyError: 'colour' (rogues.py, line ")
    assert not permanent


async def test_a_mistake_is_told_without_the_places_of_files(tmp_path: Path, workspace: Path) -> None:
    reason, _ = await failure("missing", tmp_path)
    assert reason.startswith("FileNotFoundError: No such file or directory (")


async def test_a_job_that_hangs_is_killed_with_all_that_it_has_started(tmp_path: Path, workspace: Path) -> None:
    assert await failure("hang", tmp_path) == ("not done within 3 s", False)
    wait_until_gone(*map(int, (workspace / "pids").read_text().split()))


async def test_a_job_that_is_cancelled_is_gone_when_that_has_come_through(tmp_path: Path, workspace: Path) -> None:
    begun = asyncio.Event()
    job = asyncio.create_task(run("patient", tmp_path, progress=lambda done: begun.set()))
    await begun.wait()
    processor, child = map(int, (workspace / "pids").read_text().split())
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert is_gone(processor)
    wait_until_gone(processor, child)


async def test_a_job_that_is_cancelled_before_it_has_begun_leaves_nothing(tmp_path: Path, workspace: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}
    job = asyncio.create_task(run("patient", tmp_path))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    wait_until(
        lambda: all(is_gone(child.pid) for child in psutil.Process().children() if child.pid not in before),
        "a process is left",
    )


async def test_jobs_leave_neither_processes_nor_descriptors(tmp_path: Path, workspace: Path) -> None:
    """Some are done, some are cancelled while they run, and some while they start."""
    me = psutil.Process()
    source = source_of(tmp_path)
    await sandbox.run("refuse", source, workspace, nothing)  # what is opened once and kept is open
    before, children = me.num_fds(), {child.pid for child in me.children()}
    begun = [asyncio.Event() for _ in range(3)]
    running = [asyncio.create_task(sandbox.run("patient", source, workspace, telling(event))) for event in begun]
    done = [asyncio.create_task(sandbox.run("refuse", source, workspace, nothing)) for _ in range(3)]
    starting = [asyncio.create_task(sandbox.run("refuse", source, workspace, nothing)) for _ in range(3)]
    await asyncio.sleep(0)
    for job in starting:
        job.cancel()
    await asyncio.gather(*(event.wait() for event in begun))
    for job in running:
        job.cancel()
    ended = await asyncio.gather(*running, *starting, *done, return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 6 + [Result] * 3
    await asyncio.to_thread(
        wait_until,
        lambda: me.num_fds() <= before and {child.pid for child in me.children()} <= children,
        "processes or descriptors are left",
    )


async def test_what_the_listener_to_progress_raises_ends_the_job(tmp_path: Path, workspace: Path) -> None:
    def lost(done: float) -> None:
        raise TimeoutError("the lease is lost")

    with pytest.raises(TimeoutError, match="the lease is lost"):
        await run("patient", tmp_path, progress=lost)
    wait_until_gone(*map(int, (workspace / "pids").read_text().split()))


def test_nothing_of_a_job_outlives_a_worker_that_is_killed(tmp_path: Path, workspace: Path) -> None:
    source = source_of(tmp_path)
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"""
import asyncio, uvloop
from pathlib import Path
from tusgate.processors import Source, sandbox
source = Source(Path({str(source.path)!r}), 1, None, None)
uvloop.run(sandbox.run("patient", source, Path({str(workspace)!r}), lambda done: print(done, flush=True)))
""",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    with worker:
        assert worker.stdout.readline() == b"0.5\n"
        pids = [*map(int, (workspace / "pids").read_text().split())]
        assert not any(is_gone(pid) for pid in pids)
        worker.kill()
    wait_until_gone(*pids)


def test_a_job_whose_worker_was_gone_before_it_looked_dies_at_once() -> None:
    program = """
import os
from tusgate.processors.limits import die_with
reading, writing = os.pipe()
os.close(writing)
die_with(reading)
"""
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, start_new_session=True, check=False)
    assert ended.returncode == -signal.SIGKILL


async def test_what_a_job_leaves_running_is_killed(tmp_path: Path, workspace: Path) -> None:
    pids: Any = (await run("leftover", tmp_path)).facts["pids"]
    wait_until_gone(*pids)


async def test_memory_has_a_limit(tmp_path: Path, workspace: Path) -> None:
    assert await failure("swallow", tmp_path) == ("more memory was needed than the processor may have", True)


async def test_files_have_a_limit(tmp_path: Path, workspace: Path) -> None:
    assert await failure("large", tmp_path) == ("the processor wrote a larger file than it may", True)


async def test_open_files_have_a_limit_and_there_are_neither_cores_nor_new_privileges(
    tmp_path: Path, workspace: Path
) -> None:
    facts: Any = (await run("open", tmp_path)).facts
    assert 64 < facts["opened"] < 128
    assert facts["core"] == 0
    assert facts["cpu"] == 60 * (os.cpu_count() or 1)
    assert facts["privileges"] == "1"


async def test_a_crash_is_told_by_its_signal(tmp_path: Path, workspace: Path) -> None:
    assert await failure("crash", tmp_path) == (f"the processor was ended by {signal.SIGSEGV.name}", False)


async def test_a_processor_that_just_leaves_has_failed(tmp_path: Path, workspace: Path) -> None:
    assert await failure("leave", tmp_path) == ("the processor ended without a result (status 7)", False)


@pytest.mark.parametrize("name", ["babble", "repeat", "shout"])
async def test_what_a_job_says_has_a_limit(name: str, tmp_path: Path, workspace: Path) -> None:
    await run("refuse", tmp_path)  # what is opened once and kept is open
    before = psutil.Process().num_fds()
    assert await failure(name, tmp_path) == ("the processor said more than 262144 bytes", True)
    await asyncio.sleep(0)  # descriptors are closed in the next round of the loop
    assert psutil.Process().num_fds() <= before


async def test_what_libraries_print_is_not_taken_for_words_of_the_processor(tmp_path: Path, workspace: Path) -> None:
    assert await run("print", tmp_path) == Result()


async def test_facts_that_are_no_json_are_a_mistake(tmp_path: Path, workspace: Path) -> None:
    reason, permanent = await failure("nan", tmp_path)
    assert reason.startswith("ValueError: ")
    assert not permanent


@pytest.mark.parametrize(
    "said",
    [
        b"garbage\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"progress": 2}\n',
        b'{"progress": true}\n',
        b'{"progress": NaN}\n',
        b'{"derived": [], "facts": {}, "refused": null, "more": 1}\n',
        b'{"derived": [], "facts": [], "refused": null}\n',
        b'{"derived": [], "facts": {}, "refused": ""}\n',
        b'{"failed": "", "permanent": false}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=lambda said: said[:40].decode(errors="replace").strip(),
)
async def test_garbage_is_not_believed(said: bytes, tmp_path: Path, workspace: Path) -> None:
    reason, permanent = await failure("say", tmp_path, said)
    assert reason.startswith("the processor said what makes no sense")
    assert permanent


def claim(
    path: str, name: str = "thing", content_type: str = "text/plain", filename: str = "x"
) -> tuple[str, str, str, str]:
    return path, name, content_type, filename


@pytest.mark.parametrize(
    "path", ["link", "inner", "folder", "elsewhere/passwd", "hard", "fifo", "/etc/passwd", "../source", ".", "missing"]
)
async def test_a_derived_file_is_a_regular_one_of_the_workspace(path: str, tmp_path: Path, workspace: Path) -> None:
    reason, permanent = await failure("claim", tmp_path, json.dumps([claim(path)]).encode())
    assert reason in {
        "the file thing is not a regular one in the workspace",
        "the processor made no file thing",
    }
    assert permanent


async def test_a_derived_file_may_be_named_by_a_relative_path(tmp_path: Path, workspace: Path) -> None:
    result = await run("claim", tmp_path, json.dumps([claim("regular")]).encode())
    assert [made.path.read_text() for made in result.derived] == ["mine"]


@pytest.mark.parametrize(
    "claims",
    [
        [claim("regular", name="Thing")],
        [claim("regular", name="a\n")],
        [claim("regular", filename="../x")],
        [claim("regular", filename="x\r\nSet-Cookie: a=b")],
        [claim("regular", filename="x\n")],
        [claim("regular", filename="")],
        [claim("regular", content_type="text/html\r\nX: y")],
        [claim("regular", content_type="html")],
        [claim("regular")] * 2,
        [claim("regular", name=f"n{number}") for number in range(17)],
        [claim("a\0b")],
    ],
    ids=repr,
)
async def test_what_is_said_of_a_derived_file_is_checked(claims: list[Any], tmp_path: Path, workspace: Path) -> None:
    _, permanent = await failure("claim", tmp_path, json.dumps(claims).encode())
    assert permanent


async def test_a_file_that_is_larger_than_the_processor_takes_is_not_begun_with(
    tmp_path: Path, workspace: Path
) -> None:
    reason, permanent = await failure("copy", tmp_path, bytes((1 << 20) + 1))
    assert reason == "the file is larger than the 1048576 bytes that copy takes"
    assert permanent
