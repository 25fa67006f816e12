"""The benchmark runs, and every upload that it makes succeeds. What it measures is for people to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.servers
def test_the_benchmark_runs_at_a_tiny_size(minio_server: object, postgres_server: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke", "--no-peer"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tusgate, SQLite") == done.stdout.count("tusgate, PostgreSQL") == 2


@pytest.mark.servers
def test_downloads_are_measured_at_a_tiny_size(minio_server: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--download", "--smoke"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert "through the gateway" in done.stdout
    assert "200 slow readers" in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_identity_runs_at_a_tiny_size() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--auth", "--smoke"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert all(kind in done.stdout for kind in ("open", "static token", "JWT, RS256", "upload token"))
