"""Every command of README.md and docs/api.md works as it is printed: run in an empty directory, against a gateway.

Blocks marked `sh run` and `js run` are run as they are, but for the port, which is a free one here.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.clients.deployment import DirectoryObjects
from tests.clients.readme import API, PRINTED, README, ROOT, blocks
from tests.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.servers.node import Node

pytestmark = pytest.mark.clients

TIMEOUT = 120.0
MAKE = re.compile(r"make ([a-z]+)\b")
COPY = re.compile(r"cp (\S+) (\S+)")
COMPOSE = re.compile(r"docker compose -f (\S+) up --build")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """Give what `make run` gives: the default settings, in a directory that has .venv and data."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with Gateway(tmp_path) as running:
        yield running


def here(text: str, gateway: Gateway) -> str:
    """Return `text` with the address of `gateway` instead of the one that `make run` has."""
    return text.replace(PRINTED, gateway.url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_shell_commands_of_the_readme_upload_what_they_say(gateway: Gateway) -> None:
    ended = run(blocks("sh run"), gateway)
    assert ended.returncode == 0, ended.stderr
    assert "204 No Content" in ended.stdout
    assert "hello, world" in ended.stdout
    stored = DirectoryObjects(gateway.home / "data" / "objects")
    sent = DirectoryObjects(gateway.home)
    # Each file by curl and by `tusgate upload`, whose URLs are the last lines; the small one without a protocol too.
    wanted = sorted([*[sent.sha256("hello.txt")] * 3, *[sent.sha256("big.bin")] * 2])
    assert sorted(stored.sha256(key) for key in stored.keys()) == wanted  # noqa: SIM118
    printed = ended.stdout.splitlines()[-2:]
    assert all(url.startswith(f"{gateway.endpoint}/") for url in printed)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_of_the_api_page_do_what_they_say(gateway: Gateway) -> None:
    ended = run(blocks("sh run", API), gateway)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("410\n")
    assert "}world\n{" in ended.stdout
    assert ended.stdout.count('"filename":"greeting.txt"') == 2


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_commands_about_share_links_do_what_they_say(start_gateway: Callable[..., Gateway]) -> None:
    ended = run(blocks("sh shares", API), start_gateway({"TUSGATE_SHARE_KEYS": "k" * 32}))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("404\n")


def run(scripts: list[str], gateway: Gateway) -> subprocess.CompletedProcess[str]:
    """Run shell scripts, one after the other in one shell, in the directory of `gateway`."""
    return subprocess.run(
        ["sh", "-eux"],
        input=here("\n".join(scripts), gateway),
        cwd=gateway.home,
        env=gateway.environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )


def test_the_page_is_where_the_readme_says(gateway: Gateway) -> None:
    assert "<http://localhost:8080/>" in README
    with urllib.request.urlopen(f"{gateway.url}/", timeout=TIMEOUT) as page:
        assert b"tus-4" in page.read()


def test_the_snippet_for_tus_js_client_uploads_a_file(gateway: Gateway, node: Node) -> None:
    (snippet,) = blocks("js run")
    file = 'const file = Object.assign(Buffer.from("hello, world\\n"), { name: "hello.txt", type: "text/plain" });\n'
    ended = subprocess.run(
        [str(node.program), "--input-type=module"],
        input=here(file + snippet, gateway),
        cwd=node.clients,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    url = ended.stdout.rpartition("done: ")[2].strip()
    assert url.startswith(f"{gateway.endpoint}/")
    key = url.rsplit("/", 1)[-1]
    assert (gateway.home / "data" / "objects" / key).read_bytes() == b"hello, world\n"


def test_commands_that_are_not_run_here_name_what_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in "".join(blocks("sh")).splitlines():
        command = line.partition("#")[0].strip()
        if make := MAKE.fullmatch(command):
            assert make[1] in targets, f"make {make[1]}"
        elif copy := COPY.fullmatch(command):
            assert (ROOT / copy[1]).is_file(), copy[1]
        else:
            compose = COMPOSE.fullmatch(command)
            assert compose, f"neither run by a test nor known: {command}"
            assert (ROOT / compose[1]).is_file(), compose[1]


def test_the_sample_settings_are_accepted(tmp_path: Path, gateway: Gateway) -> None:
    (sample,) = blocks("ini")
    directory = tmp_path / "elsewhere"
    directory.mkdir()
    (directory / ".env").write_text(sample, encoding="utf-8")
    clean = {name: value for name, value in gateway.environment.items() if not name.startswith("TUSGATE_")}
    ended = subprocess.run(
        [sys.executable, "-m", "tusgate", "config"],
        cwd=directory,
        env=clean,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    for setting in re.findall(r"^(TUSGATE_\w+)=", sample, re.MULTILINE):
        assert re.search(rf"^{setting} .*\.env", ended.stdout, re.MULTILINE), setting
