"""Addresses of buckets, and what a configuration shows of itself."""

from __future__ import annotations

import dataclasses

import pytest

from tusgate.core.errors import SettingsError
from tusgate.s3.config import S3Config
from tusgate.s3.profiles import PROFILES

CONFIG = S3Config("http://127.0.0.1:9000", "us-east-1", "bucket", "prefix/", "access", "hidden", "hidden")


@pytest.mark.parametrize(
    ("endpoint", "profile", "origin", "root"),
    [
        ("http://127.0.0.1:9000", "minio", "http://127.0.0.1:9000", "/bucket/"),
        ("http://minio:80/", "minio", "http://minio", "/bucket/"),
        ("https://[::1]:443", "generic", "https://[::1]", "/bucket/"),
        (
            "https://s3.eu-central-1.amazonaws.com",
            "aws",
            "https://bucket.s3.eu-central-1.amazonaws.com",
            "/",
        ),
    ],
)
def test_objects_have_the_address_that_the_server_expects(endpoint: str, profile: str, origin: str, root: str) -> None:
    config = dataclasses.replace(CONFIG, endpoint=endpoint, profile=PROFILES[profile])

    assert (config.origin, config.root) == (origin, root)


@pytest.mark.parametrize(
    "endpoint", ["minio:9000", "ftp://minio", "http://", "http://minio/path", "http://key:hidden@minio"]
)
def test_an_endpoint_that_cannot_work_is_a_settings_error_without_its_secrets(endpoint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        dataclasses.replace(CONFIG, endpoint=endpoint)

    assert "hidden" not in str(refused.value)


def test_secrets_do_not_show() -> None:
    assert "hidden" not in repr(CONFIG)
    assert "hidden" not in repr(CONFIG.credentials)


def test_only_profiles_that_allow_it_leave_parts_out() -> None:
    listing_all = {name for name, profile in PROFILES.items() if profile.completes_all_parts}

    assert listing_all == {"ceph", "rclone"}
    assert PROFILES["r2"].limits.equal_parts


def test_copied_parts_are_taken_with_checksums_only_where_that_is_known_to_work() -> None:
    assert {name for name, profile in PROFILES.items() if profile.copied_part_checksums} == {"aws"}
    assert {name for name, profile in PROFILES.items() if profile.shows_unasked_checksums} == {"minio"}
    assert {name for name, profile in PROFILES.items() if not profile.copy_part} == {"gcs", "rclone", "generic"}
