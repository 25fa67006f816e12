"""Several processes on one port: real ones, killed, crashed and told to end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.servers.process import wait_until
from tusgate.cli.workers import reserved_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., subprocess.Popen[bytes]]

pytestmark = pytest.mark.slow

PROGRAM = """
import os, pathlib, signal, sys, time
from tusgate.cli.workers import Workers
from tusgate.settings import Settings
from tusgate.telemetry import configure_logging

def say(what):
    pathlib.Path(f"{os.getpid()}.{what}").touch()

def wait_for_the_end():
    signal.signal(signal.SIGTERM, lambda *_: (say("drained"), sys.exit(0)))
    say("up")
    while True:
        signal.pause()

def refuse_to_end():
    signal.signal(signal.SIGTERM, lambda *_: say("asked"))
    say("up")
    while True:
        signal.pause()

def crash():
    say("up")
    raise SystemExit(7)

def wrong_settings():
    from tusgate.core.errors import SettingsError
    raise SettingsError("TUSGATE_X: expected sense")

configure_logging(Settings(log_format="json"))
kind = globals()[sys.argv[1]]
sys.exit(Workers(2, lambda number: kind(), drain_timeout=float(sys.argv[2])).run())
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start two workers of the named kind in the test's directory."""
    started: list[subprocess.Popen[bytes]] = []
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))

    def start_program(kind: str, drain_timeout: float = 20.0) -> subprocess.Popen[bytes]:
        command = [sys.executable, "program.py", kind, str(drain_timeout)]
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=tmp_path, stderr=log, start_new_session=True))
        return started[-1]

    yield start_program
    for process in started:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def pids(directory: Path, what: str) -> set[int]:
    return {int(path.stem) for path in directory.glob(f"*.{what}")}


def test_all_workers_drain_on_sigterm_and_the_code_is_0(start: Start, tmp_path: Path) -> None:
    parent = start("wait_for_the_end")
    wait_until(lambda: len(pids(tmp_path, "up")) == 2, "two workers")
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) == 0
    assert pids(tmp_path, "drained") == pids(tmp_path, "up")


def test_a_killed_worker_is_replaced_and_the_other_left_alone(start: Start, tmp_path: Path) -> None:
    parent = start("wait_for_the_end")
    wait_until(lambda: len(pids(tmp_path, "up")) == 2, "two workers")
    victim, survivor = sorted(pids(tmp_path, "up"))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(pids(tmp_path, "up")) == 3, "a third worker")
    parent.send_signal(signal.SIGINT)
    assert parent.wait(20) == 0
    assert survivor in pids(tmp_path, "drained")
    assert len(pids(tmp_path, "drained")) == 2


def test_a_worker_that_keeps_crashing_is_started_ever_more_slowly(start: Start, tmp_path: Path) -> None:
    parent = start("crash")
    wait_until(lambda: b'"delay": 2.0' in (tmp_path / "log").read_bytes(), "the third delay")
    log = (tmp_path / "log").read_text()
    assert log.index('"delay": 0.5') < log.index('"delay": 1.0') < log.index('"delay": 2.0')
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) in (0, 1)  # 1 when it was told to end while one was crashing


def test_wrong_settings_end_all_instead_of_restarting(start: Start, tmp_path: Path) -> None:
    assert start("wrong_settings").wait(20) == 2
    assert "TUSGATE_X: expected sense" in (tmp_path / "log").read_text()


def test_a_second_signal_does_not_wait_any_longer(start: Start, tmp_path: Path) -> None:
    parent = start("refuse_to_end")
    wait_until(lambda: len(pids(tmp_path, "up")) == 2, "two workers")
    parent.send_signal(signal.SIGTERM)
    wait_until(lambda: len(pids(tmp_path, "asked")) == 2, "both asked")
    parent.send_signal(signal.SIGTERM)
    assert parent.wait(20) == 1


def test_workers_drain_when_their_supervisor_is_killed(start: Start, tmp_path: Path) -> None:
    parent = start("wait_for_the_end")
    wait_until(lambda: len(pids(tmp_path, "up")) == 2, "two workers")
    parent.kill()
    wait_until(lambda: pids(tmp_path, "drained") == pids(tmp_path, "up"), "both drained")


def test_a_reserved_port_is_free_for_the_workers_and_gets_no_connections_itself() -> None:
    with reserved_port("127.0.0.1", 0) as port:
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
        with socket.create_server(("127.0.0.1", port), reuse_port=True), socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) == 0


def test_a_taken_port_is_told_before_any_worker_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}"), reserved_port("127.0.0.1", port):
            pass
