"""`tusgate doctor` on real stores and databases: what it finds, what it mends, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.gateway import minio_settings
from tests.servers import minio as minio_server
from tusgate.core.checkup import Health, Seen, of_clock, of_page, origins_to_ask

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.s3 import S3Server

GOOD, FOREIGN = "https://good.example", "https://foreign.example"
NOW = datetime(2026, 11, 21, tzinfo=UTC)
on_servers = [pytest.mark.servers, pytest.mark.slow]


@dataclass
class Told:
    """What one run has said."""

    code: int
    findings: list[dict[str, Any]]
    text: str

    def health(self, what: str) -> list[str]:
        """Return how all that begins with `what` is."""
        return [each["health"] for each in self.findings if each["what"].startswith(what)]

    def advice(self, what: str) -> str:
        (advice,) = {each["advice"] for each in self.findings if each["what"].startswith(what) and each["advice"]}
        return str(advice)


@dataclass
class Doctor:
    """Runs the command in a directory of its own."""

    home: Path

    def examine(self, settings: dict[str, str], *flags: str, as_json: bool = True) -> Told:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TUSGATE_")}
        ended = subprocess.run(
            [sys.executable, "-m", "tusgate", "doctor", *(["--json"] if as_json else []), *flags],
            cwd=self.home,
            env={**clean, "HOME": str(self.home), **settings},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in ended.stderr, ended.stderr
        findings = [json.loads(line) for line in ended.stdout.splitlines()] if as_json else []
        return Told(ended.returncode, findings, ended.stdout + ended.stderr)


@pytest.fixture
def doctor(tmp_path: Path) -> Doctor:
    return Doctor(tmp_path)


def direct(server: S3Server, bucket: str, origins: str, **more: str) -> dict[str, str]:
    return minio_settings(server, bucket) | {"TUSGATE_DIRECT": "on", "TUSGATE_CORS_ORIGINS": origins, **more}


class TestRunning:
    pytestmark = on_servers

    def test_all_is_well_where_all_is_there(self, doctor: Doctor, minio: S3Server, bucket: str) -> None:
        told = doctor.examine(direct(minio, bucket, "*"))
        assert (told.code, {each["health"] for each in told.findings}) == (0, {"fine"}), told.text
        assert told.health("direct uploads from any page") == ["fine"]
        assert told.health("clock of the store") == ["fine"]
        assert list(minio.keys(bucket)) == []
        assert minio.client()._list_multipart_uploads(bucket_name=bucket).uploads == []

    def test_minio_is_told_which_origins_it_does_not_know(self, doctor: Doctor) -> None:
        """DM-11: and that it has no rules of buckets that could be put."""
        with minio_server.running_with_cors(GOOD) as minio:
            bucket = minio.make_bucket("doctor")
            settings = direct(minio, bucket, f"{GOOD},{FOREIGN}", TUSGATE_AUTH="token")
            for flags in ([], ["--fix-cors"]):
                told = doctor.examine(settings, *flags)
                assert told.code == 1
                assert told.health(f"direct uploads from {GOOD}") == ["fine"]
                assert told.health(f"direct uploads from {FOREIGN}") == ["wrong"]
                assert f"MINIO_API_CORS_ALLOW_ORIGIN={GOOD},{FOREIGN}" in told.advice("direct uploads")
            text = doctor.examine(settings, as_json=False).text
            assert f"wrong     direct uploads from {FOREIGN}: CORS of the bucket does not let pages send parts" in text

    def test_a_bucket_gets_a_rule_beside_those_that_it_has(
        self, doctor: Doctor, versity: S3Server, versity_bucket: str
    ) -> None:
        settings = direct(
            versity, versity_bucket, f"{GOOD},{FOREIGN}", TUSGATE_S3_PROFILE="versity", TUSGATE_AUTH="token"
        )
        before = doctor.examine(settings)
        assert (before.code, before.health("direct uploads")) == (1, ["wrong", "wrong"]), before.text
        assert before.advice("direct uploads") == "tusgate doctor --fix-cors"
        mended = doctor.examine(settings, "--fix-cors")
        assert (mended.code, mended.health("direct uploads")) == (0, ["wrong", "mended", "fine"]), mended.text
        assert doctor.examine(settings).health("direct uploads") == ["fine", "fine"]
        third = settings | {"TUSGATE_CORS_ORIGINS": "https://third.example"}
        assert doctor.examine(third).code == 1
        assert doctor.examine(third, "--fix-cors").code == 0
        assert doctor.examine(settings).code == 1, "our rule is one, and has the origins of the last time"

    def test_a_key_that_may_not_sign_parts_is_found(self, doctor: Doctor, minio: S3Server, bucket: str) -> None:
        keys = {"TUSGATE_S3_PRESIGN_ACCESS_KEY": "nobody", "TUSGATE_S3_PRESIGN_SECRET_KEY": "not-to-be-seen-anywhere"}
        told = doctor.examine(direct(minio, bucket, GOOD, **keys))
        assert told.code == 1
        assert "s3:PutObject" in told.advice(f"direct uploads from {GOOD}")
        assert "not-to-be-seen-anywhere" not in told.text

    def test_what_cannot_be_reached_is_told_and_stops_nothing(
        self, doctor: Doctor, minio: S3Server, bucket: str, database_url: str
    ) -> None:
        settings = direct(minio, bucket, "*") | {
            "TUSGATE_DATABASE_URL": database_url,
            "TUSGATE_S3_PUBLIC_ENDPOINT": "http://127.0.0.1:1",
        }
        told = doctor.examine(settings)
        assert (told.code, told.health("database"), told.health("bucket")) == (1, ["wrong"], ["fine"]), told.text
        assert "migrate" in told.text
        assert "http://127.0.0.1:1 cannot be reached" in told.text
        away = {**settings, "TUSGATE_DATABASE_URL": "postgresql://me:not-to-be-seen@127.0.0.1:1/x"}
        told = doctor.examine({**away, "TUSGATE_S3_ENDPOINT": "http://127.0.0.1:1"})
        assert (told.code, told.health("database"), told.health("bucket")) == (1, ["wrong"], ["wrong"]), told.text
        assert "not-to-be-seen" not in told.text


@pytest.mark.slow
def test_it_needs_neither_a_database_nor_a_server(doctor: Doctor) -> None:
    told = doctor.examine({})
    assert (told.code, told.health("database"), told.health("directory")) == (0, ["fine"], ["fine"])
    assert not (doctor.home / "data" / "tusgate.sqlite3").exists(), "the first start makes it"


@pytest.mark.parametrize(
    ("seconds", "health", "told"),
    [
        (0, Health.FINE, "agrees"),
        (-29, Health.FINE, "agrees"),
        (31, Health.DOUBTFUL, "31 s ahead of ours"),
        (-299, Health.DOUBTFUL, "299 s behind ours"),
        (-301, Health.WRONG, "301 s behind ours"),
    ],
)
def test_clocks_may_differ_by_so_much(seconds: int, health: Health, told: str) -> None:
    finding = of_clock("store", NOW + timedelta(seconds=seconds), NOW)
    assert (finding.what, finding.health) == ("clock of the store", health)
    assert told in finding.told


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (Seen(may_send=True, status=200, shows_etag=True, clock=None), "taken"),
        (Seen(may_send=False, status=200, shows_etag=True, clock=None), "does not let pages send"),
        (Seen(may_send=True, status=200, shows_etag=False, clock=None), "hides the ETag"),
        (Seen(may_send=True, status=403, shows_etag=True, clock=None), "with 403"),
    ],
)
def test_a_page_needs_the_part_the_preflight_and_the_etag(seen: Seen, told: str) -> None:
    finding = of_page(GOOD, seen, "advice")
    assert told in finding.told
    assert (finding.health is Health.FINE) == (told == "taken") == (not finding.advice)


def test_our_own_page_is_asked_for_beside_those_that_are_configured() -> None:
    assert origins_to_ask(("*", GOOD), FOREIGN) == ["*"]
    assert origins_to_ask((GOOD,), FOREIGN) == [GOOD, FOREIGN]
    assert origins_to_ask((GOOD,), GOOD) == [GOOD]
    assert origins_to_ask((), None) == []
