"""Settings: where they come from, what is refused and how it is said, what is never shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusgate.core.concat import JOINED_WITHIN
from tusgate.core.errors import SettingsError
from tusgate.s3.profiles import PROFILES
from tusgate.settings import Settings, load_settings
from tusgate.settings.kinds import parse_duration, show_duration, show_size
from tusgate.settings.model import SECRET_FILES, SWEEP_MARGIN, S3Profile, kind_of, shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    SetEnvironment = Callable[..., None]

S3 = {
    "s3_endpoint": "http://127.0.0.1:9000",
    "s3_bucket": "uploads",
    "s3_access_key": "gateway",
    "s3_secret_key": "hunter2-hunter2",
}
HOURS = 3600.0


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetEnvironment:
    """Work in an empty directory, without TUSGATE_* variables but those that the test sets by calling this."""
    for name in [name for name in os.environ if name.upper().startswith("TUSGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def set_variables(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"TUSGATE_{name.upper()}", value)

    return set_variables


def complaint(environment: SetEnvironment, **values: str) -> str:
    environment(**values)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("host", "api", "offered"),
    [
        ("127.0.0.1", None, True),
        ("::1", None, True),
        ("localhost", None, True),
        ("0.0.0.0", None, False),
        ("uploads.example.com", None, False),
        ("0.0.0.0", "on", True),
        ("127.0.0.1", "off", False),
    ],
)
def test_all_files_are_shown_to_whoever_comes_only_where_that_is_wanted(
    host: str, api: Literal["on", "off"] | None, offered: bool
) -> None:
    assert Settings(host=host, api=api).offers_api is offered


@pytest.mark.parametrize("path", ["/api/v1", "/api/v1/files"])
def test_uploads_cannot_be_where_the_api_is(environment: SetEnvironment, path: str) -> None:
    assert "TUSGATE_BASE_PATH: expected a path that is not below /api/v1" in complaint(environment, base_path=path)


def test_nothing_set_is_an_embedded_gateway_in_the_data_directory(environment: SetEnvironment) -> None:
    settings = load_settings().settings
    assert str(settings.sqlite_path) == "data/tusgate.sqlite3"
    assert str(settings.store_dir) == "data"
    assert settings.endpoint_url == "http://127.0.0.1:8080/files"


def test_each_source_outranks_the_next_one(environment: SetEnvironment, tmp_path: Path) -> None:
    toml = 'port = 1\nbudget = "1GiB"\nmax_size = "1GiB"\nlog_level = "error"\n'
    (tmp_path / "tusgate.toml").write_text(toml)
    (tmp_path / ".env").write_text("TUSGATE_PORT=2\nTUSGATE_BUDGET=2GiB\nTUSGATE_MAX_SIZE=2GiB\nPOSTGRES_PASSWORD=x\n")
    environment(port="3", budget="3GiB")
    loaded = load_settings({"port": "4"})
    settings = loaded.settings
    assert (settings.port, settings.budget, settings.max_size, settings.log_level) == (4, 3 << 30, 2 << 30, "error")
    names = ("port", "budget", "max_size", "log_level", "host")
    assert [loaded.origin(name) for name in names] == [
        "command line",
        "environment",
        ".env",
        "tusgate.toml",
        "default",
    ]


def test_another_toml_file_is_named_by_argument_or_environment(environment: SetEnvironment, tmp_path: Path) -> None:
    for name, port in (("tusgate.toml", 1), ("a.toml", 2), ("b.toml", 3)):
        (tmp_path / name).write_text(f"port = {port}\n")
    assert load_settings().settings.port == 1
    environment(config="a.toml")
    assert load_settings().settings.port == 2
    assert load_settings(config=tmp_path / "b.toml").settings.port == 3


def test_a_named_toml_file_must_exist_and_be_toml(environment: SetEnvironment, tmp_path: Path) -> None:
    assert "TUSGATE_CONFIG: expected a readable TOML file, got nowhere.toml" in complaint(
        environment, config="nowhere.toml"
    )
    (tmp_path / "bad.toml").write_text("port 1")
    assert "bad.toml: expected a TOML file" in complaint(environment, config="bad.toml")


def test_a_file_gives_a_secret_without_its_newline(environment: SetEnvironment, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-file\n")
    environment(**{**S3, "s3_secret_key": ""}, s3_secret_key_file=str(tmp_path / "key"))
    loaded = load_settings()
    assert loaded.settings.s3_secret_key is not None
    assert loaded.settings.s3_secret_key.get_secret_value() == "from-file"
    assert loaded.origin("s3_secret_key") == "environment"


def test_a_secret_in_the_environment_outranks_a_file_named_in_dotenv(
    environment: SetEnvironment, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("TUSGATE_S3_SECRET_KEY_FILE=/nonexistent\n")
    environment(**S3)
    settings = load_settings().settings
    assert settings.s3_secret_key is not None
    assert settings.s3_secret_key.get_secret_value() == S3["s3_secret_key"]


def test_a_secret_and_its_file_in_one_source_contradict_each_other(environment: SetEnvironment) -> None:
    text = complaint(environment, **S3, s3_secret_key_file="/run/secrets/key")
    assert "TUSGATE_S3_SECRET_KEY: expected either it or TUSGATE_S3_SECRET_KEY_FILE, not both" in text


def test_a_missing_secret_file_is_named(environment: SetEnvironment) -> None:
    text = complaint(environment, database_url_file="/nonexistent/dsn")
    assert "TUSGATE_DATABASE_URL_FILE: expected a readable file, got /nonexistent/dsn" in text


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("part_size", "8 apples", "a size such as 8MiB, or a number of bytes, got '8 apples'"),
        ("part_size", "-8MiB", "a size such as 8MiB"),
        ("port", "65536", "at most 65535, got '65536'"),
        ("port", "tcp://10.0.0.1:80", "a whole number"),
        ("idle_timeout", "soon", "a duration such as 30s, 15m or 24h"),
        ("idle_timeout", "0", "more than 0s, got '0'"),
        ("idle_timeout", "inf", "a duration"),
        ("idle_timeout", "nan", "more than 0s"),
        ("upload_expiry", "-1", "more than 0s"),
        ("max_metadata", "12", "at least 1KiB, got '12'"),
        ("piece_inline_max", "2MiB", "at most 1MiB"),
        ("log_level", "loud", "one of debug, info, warning, error, got 'loud'"),
        ("gone_status", "418", "404 or 410"),
        ("base_path", "/", "a path such as /files, not /"),
        ("base_path", "files", "a path"),
        ("base_path", "/a/../b", "a path"),
        ("public_url", "ftp://example.com", "a URL such as"),
        ("public_url", "https://user:secret@example.com", "a URL such as"),
        ("cors_origins", "https://a.example,b.example", "* or origins"),
        ("cors_origins", "https://a.example/path", "* or origins"),
        ("cors_headers", "X Y", "header names"),
        ("trusted_proxies", "10.0.0.1/8", "addresses or networks"),
        ("object_key", "{date}/{filename}", "a relative key with {id}"),
        ("object_key", "/{id}", "a relative key"),
        ("object_key", "{id", "a relative key"),
        ("s3_prefix", "../up/", "a key prefix"),
        ("s3_profile", "floppy", "one of aws, minio"),
        ("database_url", "mysql://localhost/x", "postgresql://user@host/name or sqlite:///path"),
    ],
)
def test_a_wrong_value_is_one_line_with_name_expectation_and_origin(
    environment: SetEnvironment, name: str, value: str, expected: str
) -> None:
    text = complaint(environment, **{name: value})
    assert text.startswith(f"TUSGATE_{name.upper()}: expected ")
    assert expected in text
    assert text.endswith("(environment)")


def test_toml_values_are_checked_like_text(environment: SetEnvironment, tmp_path: Path) -> None:
    (tmp_path / "tusgate.toml").write_text(
        'cors_origins = ["https://a.example"]\nidle_timeout = 20\nmin_rate = "2KiB/s"'
    )
    settings = load_settings().settings
    assert (settings.cors_origins, settings.idle_timeout, settings.min_rate) == (("https://a.example",), 20.0, 2048)
    (tmp_path / "tusgate.toml").write_text("part_size = true\n")
    assert complaint(environment).startswith("TUSGATE_PART_SIZE: expected a size")


def test_an_unknown_name_is_refused_with_the_nearest_one(environment: SetEnvironment, tmp_path: Path) -> None:
    text = complaint(environment, s3_acces_key="x")
    assert "TUSGATE_S3_ACCES_KEY: expected a known setting (did you mean TUSGATE_S3_ACCESS_KEY?)" in text


@pytest.mark.parametrize(("file", "text"), [("tusgate.toml", "part_sise = 1\n"), (".env", "TUSGATE_PART_SISE=1\n")])
def test_an_unknown_name_in_a_file_is_refused_too(
    environment: SetEnvironment, tmp_path: Path, file: str, text: str
) -> None:
    (tmp_path / file).write_text(text)
    assert f"TUSGATE_PART_SISE: expected a known setting (did you mean TUSGATE_PART_SIZE?), found in {file}" in (
        complaint(environment)
    )


def test_variables_of_the_test_suite_are_no_settings(environment: SetEnvironment) -> None:
    environment(test_docker="0")
    load_settings()


@pytest.mark.parametrize("missing", sorted(S3))
def test_half_set_s3_settings_are_refused_naming_the_missing_one(environment: SetEnvironment, missing: str) -> None:
    text = complaint(environment, **{name: value for name, value in S3.items() if name != missing})
    assert text.startswith(f"TUSGATE_{missing.upper()}: expected a value, because TUSGATE_S3_")


def test_s3_needs_parts_of_five_mebibytes(environment: SetEnvironment) -> None:
    assert "TUSGATE_PART_SIZE: expected at least 5MiB with S3, got 1MiB" in complaint(
        environment, **S3, part_size="1MiB"
    )


def test_a_directory_takes_smaller_parts(environment: SetEnvironment) -> None:
    environment(part_size="1MiB")
    assert load_settings().settings.part_size == 1 << 20


def test_the_budget_holds_two_parts_at_least(environment: SetEnvironment) -> None:
    text = complaint(environment, budget="15MiB")
    assert "TUSGATE_BUDGET: expected at least twice TUSGATE_PART_SIZE (16MiB), got 15MiB" in text


def test_several_workers_need_postgres(environment: SetEnvironment) -> None:
    assert complaint(environment, workers="2").startswith("TUSGATE_WORKERS: expected 1 with SQLite")
    environment(database_url="postgresql://localhost/tusgate")
    assert load_settings().settings.workers == 2


def test_minio_shortens_the_default_lifetime_to_an_hour_before_its_sweep() -> None:
    settings = Settings.model_validate(S3)
    assert settings.profile == "minio"
    assert settings.lifetime_limit == 23 * HOURS


def test_a_lifetime_that_the_store_would_cut_short_is_refused(environment: SetEnvironment) -> None:
    text = complaint(environment, **S3, upload_expiry="7d")
    assert "TUSGATE_UPLOAD_EXPIRY: expected at most 23h" in text
    environment(s3_stale_upload_expiry="8d")
    assert load_settings().settings.lifetime_limit == 8 * 24 * HOURS - SWEEP_MARGIN


@pytest.mark.parametrize(
    ("endpoint", "profile"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "aws"),
        ("https://account.r2.cloudflarestorage.com", "r2"),
        ("https://s3.us-west-004.backblazeb2.com", "b2"),
        ("https://notamazonaws.com", "minio"),
        ("http://minio:9000", "minio"),
    ],
)
def test_the_profile_follows_from_the_host_name(endpoint: str, profile: str) -> None:
    assert Settings.model_validate({**S3, "s3_endpoint": endpoint}).profile == profile


def test_a_configured_profile_outranks_the_host_name() -> None:
    given = {**S3, "s3_endpoint": "https://s3.amazonaws.com", "s3_profile": "generic"}
    assert Settings.model_validate(given).profile == "generic"


def test_the_last_partial_of_a_group_ends_before_the_store_sweeps_what_the_first_began() -> None:
    assert JOINED_WITHIN < SWEEP_MARGIN


def test_settings_know_exactly_the_shipped_profiles_and_their_sweeps() -> None:
    assert set(get_args(S3Profile)) == set(PROFILES)
    for name, profile in PROFILES.items():
        limit = Settings.model_validate({**S3, "s3_profile": name}).lifetime_limit
        sweep = profile.stale_upload_expiry
        assert limit == (None if sweep is None else sweep - SWEEP_MARGIN)


def test_sqlite_may_be_put_elsewhere() -> None:
    for url, path in (("sqlite:///var/x.db", "var/x.db"), ("sqlite:////var/x.db", "/var/x.db")):
        assert str(Settings.model_validate({"database_url": url}).sqlite_path) == path


def test_the_endpoint_is_built_from_what_is_known() -> None:
    for values, endpoint in (
        ({"public_url": "https://up.example.com/in/"}, "https://up.example.com/in/files"),
        ({"host": "0.0.0.0", "port": 9}, "http://127.0.0.1:9/files"),
        ({"host": "::1", "base_path": "/a/b/"}, "http://[::1]:8080/a/b"),
    ):
        assert Settings.model_validate(values).endpoint_url == endpoint


def test_no_secret_shows_in_errors_text_or_display(environment: SetEnvironment) -> None:
    secrets = {name: f"hunter2-{name}" for name in ("s3_access_key", "s3_secret_key", "s3_session_token")}
    given = {**S3, **secrets, "database_url": "postgresql://tus:hunter2@db/t?sslpassword=hunter2&application_name=a"}
    settings = Settings.model_validate(given)
    seen = [repr(settings), str(settings), settings.model_dump_json()]
    seen += [shown(name, getattr(settings, name)) for name in Settings.model_fields]
    assert not [text for text in seen if "hunter2" in text]
    assert shown("database_url", settings.database_url) == (
        "postgresql://tus:***@db/t?sslpassword=***&application_name=a"
    )
    assert "hunter2" not in complaint(environment, database_url="hunter2://x:hunter2@y")


@pytest.mark.parametrize("password", ["p@ss/word", "p:a:s", "päß", "a?x", "a#b"])
def test_odd_passwords_in_the_database_url_are_hidden_whole(password: str) -> None:
    settings = Settings.model_validate({"database_url": f"postgresql://u:{password}@db/t"})
    assert shown("database_url", settings.database_url) == "postgresql://u:***@db/t"


def test_every_secret_has_a_file_variant() -> None:
    secret = {name for name in Settings.model_fields if "Secret" in str(Settings.model_fields[name].annotation)}
    assert secret | {"jwt_issuers"} == set(SECRET_FILES)  # has its secrets inside


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1


def test_every_default_is_shown_the_way_it_may_be_written(environment: SetEnvironment) -> None:
    written = {name: shown(name, field.default) for name, field in Settings.model_fields.items()}
    optional = {name: text for name, text in written.items() if text not in {"none", ""}}
    assert load_settings(optional).settings == Settings()


@given(st.integers(0, 1 << 50))
def test_a_size_survives_being_shown(size: int) -> None:
    field = "max_size"
    assert Settings.model_validate({field: show_size(size + 1)}).max_size == size + 1
    assert kind_of(field).label == "SIZE"


@given(st.integers(0, 10**9))
def test_a_duration_survives_being_shown(milliseconds: int) -> None:
    assert parse_duration(show_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400), ("250ms", 0.25), ("2 d", 172_800), ("1w", 604_800), ("7", 7), ("0.5", 0.5)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("given", ["s3_presign_access_key", "s3_presign_secret_key"])
def test_a_key_for_urls_is_an_id_and_a_secret(given: str) -> None:
    other = ({"s3_presign_access_key", "s3_presign_secret_key"} - {given}).pop()
    with pytest.raises(SettingsError, match=f"TUSGATE_{other.upper()}"):
        load_settings({given: "x"})


def test_origin_tokens_are_for_downloads_under_an_address_of_their_own() -> None:
    cdn = {"download_url": "https://files.example.net"}
    found = load_settings({"origin_tokens": f"{'o' * 32},{'n' * 32}", **cdn}).settings
    assert len(found.origin_tokens) == 2
    assert "o" * 32 not in repr(found)
    with pytest.raises(SettingsError, match="TUSGATE_DOWNLOAD_URL"):
        load_settings({"origin_tokens": "o" * 32})
    with pytest.raises(SettingsError, match="TUSGATE_ORIGIN_TOKENS"):
        load_settings({"origin_tokens": "short", **cdn})


@pytest.mark.parametrize("path", ["/s", "/s/files"])
def test_uploads_do_not_lie_where_share_links_lead(path: str) -> None:
    with pytest.raises(SettingsError, match="TUSGATE_BASE_PATH"):
        load_settings({"base_path": path})


def test_there_are_share_links_with_a_key_and_where_files_are_handed_out() -> None:
    assert not load_settings({}).settings.offers_shares
    assert load_settings({"share_keys": "k" * 32}).settings.offers_shares
    assert not load_settings({"share_keys": "k" * 32, "downloads": "off"}).settings.offers_shares
    with pytest.raises(SettingsError, match="TUSGATE_SHARE_KEYS"):
        load_settings({"share_keys": "short"})


@pytest.mark.parametrize(
    "wanted",
    [
        {"event_stream": "on"},
        {"external_processors": "words=text/*", "auth": "token"},
        {"s3_events_secret": "s" * 32},
        {"share_keys": "k" * 32},
    ],
)
def test_what_is_reached_by_the_api_needs_the_api(wanted: dict[str, str]) -> None:
    assert load_settings({**wanted, "api": "on"}).settings.offers_api
    with pytest.raises(
        SettingsError, match=f"TUSGATE_API: expected on, .* TUSGATE_{next(iter(wanted)).upper()} is set"
    ):
        load_settings({**wanted, "api": "off"})


def test_metrics_have_an_address(environment: SetEnvironment) -> None:
    assert load_settings().settings.metrics is None
    environment(metrics="[::1]:9464")
    settings = load_settings().settings
    assert settings.metrics == ("::1", 9464)
    assert shown("metrics", settings.metrics) == "[::1]:9464"


@pytest.mark.parametrize(
    "text", ["9464", ":9464", "localhost", "http://localhost:9464", "localhost:99999", "a:b", "a@b:1"]
)
def test_metrics_without_an_address_are_refused(environment: SetEnvironment, text: str) -> None:
    told = complaint(environment, metrics=text)
    assert told.startswith("TUSGATE_METRICS: expected a host and a port such as 127.0.0.1:9464, got")
    assert text in told


@pytest.mark.parametrize(
    ("address", "workers", "expected"),
    [
        ("127.0.0.1:8080", "1", "other ports than that of uploads, 8080"),
        ("127.0.0.1:8079", "2", "other ports than that of uploads, 8080"),
        ("127.0.0.1:65535", "2", "a port of at most 65534"),
    ],
)
def test_each_worker_finds_a_port_for_its_metrics(
    environment: SetEnvironment, address: str, workers: str, expected: str
) -> None:
    database = "postgresql://127.0.0.1/tusgate"
    assert expected in complaint(environment, metrics=address, workers=workers, database_url=database)
