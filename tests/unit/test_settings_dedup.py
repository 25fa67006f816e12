"""What settings and tenants file say of files that share objects, and of those that need not be sent."""

from __future__ import annotations

import pytest

from tusgate.core.errors import SettingsError
from tusgate.settings import Settings, load_settings
from tusgate.settings.dedup import dedup_of, instant_of
from tusgate.settings.tenants import load_tenancy

KEYS = "k" * 32


@pytest.fixture
def load(tmp_path):
    def read(text, **settings):
        path = tmp_path / "tenants.toml"
        path.write_text(text)
        loaded = Settings(tenants_file=path, **settings)
        return dedup_of(loaded, load_tenancy(loaded))

    return read


def test_nothing_is_shared_unless_that_is_wanted():
    settings = Settings()
    dedup = dedup_of(settings, load_tenancy(settings))
    assert not dedup.is_on("default")
    assert not dedup.is_on_anywhere


def test_everybody_shares_where_there_are_no_tenants():
    settings = Settings(dedup="on")
    assert dedup_of(settings, load_tenancy(settings)).is_on("anybody")


def test_a_tenant_may_have_it_otherwise(load):
    text = "[tenants.acme]\ndedup = 'on'\n[tenants.other]\n"
    off, on = load(text), load(text.replace("'on'", "'off'"), dedup="on")
    assert (off.is_on("acme"), off.is_on("other"), off.is_on_anywhere) == (True, False, True)
    assert (on.is_on("acme"), on.is_on("other"), on.is_on("default")) == (False, True, True)


def test_tenants_that_are_not_declared_are_as_the_default_one(load):
    dedup = load("unknown_tenants = 'default'\n[tenants.default]\ndedup = 'on'\n")
    assert dedup.is_on("whoever")


def test_what_cannot_be_meant_is_refused(load):
    with pytest.raises(SettingsError, match=r"tenants\.acme\.dedup"):
        load("[tenants.acme]\ndedup = 'maybe'\n")


def instant(**settings):
    loaded = Settings(**settings)
    return instant_of(loaded, load_tenancy(loaded))


def test_every_file_is_sent_unless_that_is_wanted_otherwise():
    assert not instant(dedup="on").is_on_anywhere
    assert instant(dedup="on", instant_upload="on", instant_keys=[KEYS]).is_on("anybody")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"instant_upload": "on", "instant_keys": [KEYS]},
            "TUSGATE_INSTANT_UPLOAD: expected off, because",
        ),
        ({"instant_upload": "on", "dedup": "on"}, "TUSGATE_INSTANT_KEYS: expected a value"),
        ({"instant_upload": "on", "dedup": "on", "instant_keys": [KEYS], "api": "off"}, "TUSGATE_API: expected on"),
    ],
)
def test_what_it_needs_is_told(settings, told):
    with pytest.raises(SettingsError, match=told):
        instant(**settings)


def test_keys_are_long_enough():
    with pytest.raises(SettingsError, match="32 characters"):
        load_settings({"instant_keys": "short"})


TENANTS = """
[tenants.acme]
dedup = "on"
[tenants.other]
dedup = "on"
instant_upload = "on"
[tenants.lonely]
dedup = "off"
"""


def instant_with(tmp_path, text, **settings):
    path = tmp_path / "tenants.toml"
    path.write_text(text)
    return instant(tenants_file=path, instant_keys=[KEYS], **settings)


def test_a_tenant_may_choose_it_where_its_files_share(tmp_path):
    """Who has no choice of their own, and does not share, merely goes without."""
    off, on = instant_with(tmp_path, TENANTS), instant_with(tmp_path, TENANTS, instant_upload="on")
    assert [name for name in ("acme", "other", "lonely", "default") if off.is_on(name)] == ["other"]
    assert [name for name in ("acme", "other", "lonely", "default") if on.is_on(name)] == ["acme", "other"]
    with pytest.raises(SettingsError, match=r"tenants\.lonely\.instant_upload: expected dedup"):
        instant_with(tmp_path, TENANTS + 'instant_upload = "on"\n')


def test_tenants_that_are_not_declared_choose_as_the_default_one(tmp_path):
    text = "unknown_tenants = 'default'\n[tenants.default]\ndedup = 'on'\ninstant_upload = 'on'\n"
    assert instant_with(tmp_path, text).is_on("whoever")
