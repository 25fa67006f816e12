"""The shipped files agree with the program and with each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.deploy import compose
from tests.deploy.conftest import write_nginx_configuration
from tests.servers import acquire
from tests.servers.process import free_port
from tusgate.settings import Settings
from tusgate.settings.kinds import parse_duration

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers.nginx import Nginx

FIELDS = {f"TUSGATE_{name.upper()}": name for name in Settings.model_fields}


def gateway_settings() -> Settings:
    environment = compose.environment_of("gateway", compose.example_environment())
    return Settings.model_validate({FIELDS[name]: value for name, value in environment.items()})


def seconds(text: str) -> float:
    parsed = parse_duration(text)
    assert isinstance(parsed, float)
    return parsed


def test_compose_gives_the_gateway_settings_that_exist_and_are_valid() -> None:
    settings = gateway_settings()
    assert settings.sqlite_path is None
    assert settings.store_dir is None
    assert settings.profile == "minio"


def test_settings_that_compose_does_not_name_reach_whatever_runs_the_gateway() -> None:
    services = compose.services(compose.example_environment())
    ours = [service for service in services.values() if service["image"] == "tusgate"]
    assert len(ours) == 2
    for service in ours:
        assert service["env_file"] == [{"path": "gateway.env", "required": False}]
    told = (compose.DEPLOY / "README.md").read_text(encoding="utf-8")
    assert "`deploy/gateway.env`" in told


def test_the_env_example_has_every_variable_that_compose_insists_on() -> None:
    example = compose.example_environment()
    assert {name for name, mandatory in compose.variables().items() if mandatory} <= example.keys()
    assert example.keys() <= compose.variables().keys()


def test_without_an_env_file_compose_refuses_to_start_with_known_passwords() -> None:
    with pytest.raises(KeyError, match="POSTGRES_PASSWORD"):
        compose.services({})


def test_minio_keeps_unfinished_uploads_longer_than_the_gateway() -> None:
    settings = gateway_settings()
    swept = compose.environment_of("minio", compose.example_environment())["MINIO_API_STALE_UPLOADS_EXPIRY"]
    assert settings.s3_stale_upload_expiry == seconds(swept)
    assert settings.upload_expiry is not None
    assert settings.lifetime_limit is not None
    assert settings.upload_expiry < settings.lifetime_limit < seconds(swept)


def test_compose_waits_longer_than_a_drain_takes() -> None:
    service = compose.services(compose.example_environment())["gateway"]
    assert seconds(service["stop_grace_period"]) > gateway_settings().drain_timeout


def test_every_dependency_in_compose_is_a_service_that_can_meet_it() -> None:
    services = compose.services(compose.example_environment())
    dockerfile = (compose.DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    for service in services.values():
        for name, needed in service.get("depends_on", {}).items():
            if needed["condition"] == "service_healthy":
                built_here = services[name].get("image") == "tusgate" and "HEALTHCHECK" in dockerfile
                assert built_here or "healthcheck" in services[name]
            else:
                assert services[name]["restart"] == "no"


def test_the_versions_of_minio_in_the_image_are_the_ones_that_tests_run() -> None:
    text = (compose.DEPLOY / "Dockerfile.minio").read_text(encoding="utf-8")
    pinned = dict(re.findall(r"ARG (MINIO|MC)_VERSION=(\S+)", text))
    for program, version in pinned.items():
        assert acquire.GO_PROGRAMS[program.lower()].endswith(f"@{version}")
    assert len(pinned) == 2


def test_what_dockerfiles_copy_exists_and_is_let_through_to_the_build() -> None:
    for name in ("Dockerfile", "Dockerfile.minio"):
        text = (compose.DEPLOY / name).read_text(encoding="utf-8")
        allowed = (compose.DEPLOY / f"{name}.dockerignore").read_text(encoding="utf-8").splitlines()
        copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", text, re.MULTILINE)
        for source in " ".join(copied).split():
            assert (compose.DEPLOY.parent / source).exists()
            assert f"!{source}" in allowed


def test_the_image_with_extras_has_what_the_one_without_has_and_all_extras() -> None:
    root = compose.DEPLOY.parent
    plain, full = (locked(root / name) for name in ("requirements.lock", "requirements-extras.lock"))
    assert plain.items() <= full.items()
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    wanted = {re.split(r"[^\w-]", requirement)[0] for extra in extras.values() for requirement in extra}
    assert wanted
    assert wanted <= full.keys()
    assert full.items() <= locked(root / "requirements-dev.lock").items(), "tests run on other versions"


def locked(path: Path) -> dict[str, str]:
    """Return the versions that a lock file has, by package."""
    return dict(re.findall(r"^([\w.-]+)==([^ ;]+)", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_nginx_does_not_end_requests_that_the_gateway_would_let_live() -> None:
    text = (compose.DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    given = {name: seconds(value) for name, value in re.findall(r"^\s*(\w+_timeout) (\w+);", text, re.MULTILINE)}
    settings = Settings()
    assert given["client_body_timeout"] > settings.idle_timeout
    assert given["proxy_read_timeout"] > settings.finish_wait
    assert given["proxy_send_timeout"] > settings.finish_wait


@pytest.mark.servers
def test_nginx_accepts_the_shipped_configuration(nginx: Nginx, tmp_path: Path) -> None:
    configuration = write_nginx_configuration(tmp_path, [free_port()], free_port())
    assert nginx.complaints(configuration) == ""


def test_caddy_accepts_the_shipped_configuration(caddy: Path) -> None:
    command = [
        str(caddy),
        "adapt",
        "--validate",
        "--adapter",
        "caddyfile",
        "--config",
        str(compose.DEPLOY / "Caddyfile"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
