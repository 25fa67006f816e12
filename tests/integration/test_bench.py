"""The benchmark runs, and every upload that it makes succeeds. What it measures is for people to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def smoke(*wanted: str) -> str:
    """Run the benchmark at its tiny size and return what it prints."""
    command = [sys.executable, "-m", "bench", *wanted, "--smoke"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.servers
def test_the_benchmark_runs_at_a_tiny_size(minio_server: object, postgres_server: object) -> None:
    printed = smoke("--no-peer")
    assert printed.count("tusgate, SQLite") == printed.count("tusgate, PostgreSQL") == 2


@pytest.mark.servers
def test_downloads_are_measured_at_a_tiny_size(minio_server: object) -> None:
    printed = smoke("downloads")
    assert "through the gateway" in printed
    assert "200 slow readers" in printed


@pytest.mark.servers
def test_concatenation_is_measured_at_a_tiny_size(minio_server: object) -> None:
    printed = smoke("concatenation")
    assert all(way in printed for way in ("direct", "one stream", "in place", "copied"))


@pytest.mark.servers
def test_direct_uploads_are_measured_at_a_tiny_size(minio_server: object) -> None:
    printed = smoke("direct")
    assert all(way in printed for way in ("through the gateway", "direct, 1 at once", "direct, 8 at once"))
    assert "2,000 URLs signed" in printed


@pytest.mark.slow
def test_the_benchmark_of_identity_runs_at_a_tiny_size() -> None:
    printed = smoke("identity")
    assert all(kind in printed for kind in ("open", "static token", "JWT, RS256", "upload token"))


@pytest.mark.servers
def test_hooks_are_measured_at_a_tiny_size(minio_server: object) -> None:
    printed = smoke("hooks")
    assert all(kind in printed for kind in ("no hook", "plug-in: create", "HTTP: create", "HTTP: finish"))


@pytest.mark.servers
@pytest.mark.slow
def test_sinks_are_measured_at_a_tiny_size(postgres_server: object, nats_server: object) -> None:
    printed = smoke("sinks")
    assert "webhook" in printed
    assert "nats" in printed
