"""The command line as a user meets it: a real process, its exit code, what is on stdout and what on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import tusgate
from tusgate.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow  # each starts a process


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run `tusgate` with arguments in an empty directory; keyword arguments are TUSGATE_* variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TUSGATE_")}
    clean |= {"HOME": str(tmp_path), "COLUMNS": "200"}

    def start(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        variables = {f"TUSGATE_{name.upper()}": value for name, value in settings.items()}
        command = [sys.executable, "-m", "tusgate", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=clean | variables, capture_output=True, text=True, timeout=60, check=False
        )

    return start


def test_version_prints_the_version_and_nothing_else(run: Run) -> None:
    result = run("version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{tusgate.__version__}\n", "")


@pytest.mark.parametrize("command", ["serve", "migrate", "config"])
def test_a_wrong_setting_stops_every_command_with_one_line_and_code_2(run: Run, command: str) -> None:
    result = run(command, part_size="big")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "TUSGATE_PART_SIZE: expected a size such as 8MiB, or a number of bytes, got 'big' (environment)\n"
    )


def test_wrong_usage_is_code_2(run: Run) -> None:
    for arguments in (["config", "--no-such-flag"], ["nonsense"], ["upload"], ["upload", "x", "--chunk-size", "no"]):
        assert run(*arguments).returncode == 2


def test_serve_offers_a_flag_for_every_setting_and_names_its_variable(run: Run) -> None:
    text = run("serve", "--help").stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text
        assert f"TUSGATE_{name.upper()}" in text


def test_config_prints_values_and_origins_without_secrets(run: Run) -> None:
    result = run("config", "--json", "--part-size", "9MiB", database_url="postgresql://u:hunter2@h/d", s3_region="eu")
    rows = {row["name"]: (row["value"], row["origin"]) for row in json.loads(result.stdout)}
    assert result.returncode == 0
    assert result.stderr == ""
    assert len(rows) == len(Settings.model_fields)
    assert rows["TUSGATE_PART_SIZE"] == ("9MiB", "command line")
    assert rows["TUSGATE_S3_REGION"] == ("eu", "environment")
    assert rows["TUSGATE_PORT"] == ("8080", "default")
    assert rows["TUSGATE_DATABASE_URL"] == ("postgresql://u:***@h/d", "environment")


def test_config_shows_people_what_the_settings_amount_to(run: Run) -> None:
    secret = "hunter2hunter2"
    s3 = {"s3_endpoint": "http://s3:9000", "s3_bucket": "box", "s3_access_key": secret, "s3_secret_key": secret}
    result = run("config", **s3, public_url="https://up.example.com")
    assert "Uploads are created at https://up.example.com/files" in result.stdout
    assert "Objects are kept in bucket box at http://s3:9000 (profile minio)" in result.stdout
    assert "Offsets are kept in SQLite data/tusgate.sqlite3" in result.stdout
    assert secret not in result.stdout + result.stderr


def test_what_config_prints_as_json_can_be_fed_back(run: Run, tmp_path: Path) -> None:
    first = json.loads(run("config", "--json", budget="1GiB", upload_expiry="36h").stdout)
    lines = [f"{row['name']}={row['value']}" for row in first if row["value"] not in {"none", ""}]
    (tmp_path / ".env").write_text("\n".join(lines))
    second = json.loads(run("config", "--json").stdout)
    assert [row["value"] for row in second] == [row["value"] for row in first]


def test_an_upload_to_nowhere_fails_with_the_reason(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    result = run("upload", "--retries", "0", "--endpoint", "http://127.0.0.1:1/files", "x")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "x: Cannot connect to host 127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stderr


def test_uploading_what_is_no_file_fails_with_the_reason(run: Run) -> None:
    result = run("upload", "missing", ".")
    assert result.returncode == 1
    assert "missing: No such file or directory" in result.stderr
    assert ": not a file" in result.stderr
