"""What settings and tenants file say of files that share objects."""

from __future__ import annotations

import pytest

from tusgate.core.errors import SettingsError
from tusgate.settings import Settings
from tusgate.settings.dedup import dedup_of
from tusgate.settings.tenants import load_tenancy


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
