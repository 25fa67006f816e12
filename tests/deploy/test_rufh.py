"""What the shipped proxies make of RUFH, and of its 104s."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.clients.payload import MIB, write_payload
from tests.clients.rufh_like import RufhLikeUpload

if TYPE_CHECKING:
    from pathlib import Path

    from tests.deploy.conftest import Topology

pytestmark = pytest.mark.servers

IDENTIFIED = (3, 5, 6, 8, 9)


@pytest.mark.parametrize("version", IDENTIFIED)
def test_104s_pass_caddy_and_a_broken_creation_is_continued(
    topology: Topology, behind_caddy: str, tmp_path: Path, version: int
) -> None:
    file = write_payload(tmp_path, 20 * MIB + 7)
    upload = RufhLikeUpload(behind_caddy, file, version)
    upload.break_creation(9 * MIB)
    assert upload.url is not None
    # The topology's public address is that of nginx; this client stays behind Caddy.
    upload.url = behind_caddy + "/" + urlsplit(upload.url).path.rsplit("/", 1)[1]
    upload.finish()
    assert topology.deployment.stored_sha256(upload.url) == file.sha256


def test_no_more_104s_come_than_caddy_takes(topology: Topology, behind_caddy: str, tmp_path: Path) -> None:
    file = write_payload(tmp_path, 100 * MIB)
    upload = RufhLikeUpload(behind_caddy, file, 6)
    assert upload.send_whole().status == 201
    assert [early.status for early in upload.early[:2]] == [104, 104]
    assert upload.url is not None
    assert topology.deployment.stored_sha256(upload.url) == file.sha256


@pytest.mark.parametrize("version", [*IDENTIFIED, None])
def test_a_file_sent_at_once_passes_nginx_without_a_104(
    topology: Topology, tmp_path: Path, version: int | None
) -> None:
    file = write_payload(tmp_path, 20 * MIB + 7)
    upload = RufhLikeUpload(topology.endpoint, file, version)
    answer = upload.send_whole()
    assert (answer.status, upload.early) == (201, [])
    assert upload.url is not None
    assert topology.deployment.stored_sha256(upload.url) == file.sha256


@pytest.mark.parametrize("version", [6, 8, 9, None])
def test_an_upload_that_was_created_first_is_resumed_through_nginx(
    topology: Topology, tmp_path: Path, version: int | None
) -> None:
    file = write_payload(tmp_path, 20 * MIB + 7)
    upload = RufhLikeUpload(topology.endpoint, file, version)
    upload.create()
    upload.break_append(0, 9 * MIB)
    upload.finish()
    assert upload.early == []
    assert upload.url is not None
    assert topology.deployment.stored_sha256(upload.url) == file.sha256
