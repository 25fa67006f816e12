"""What settings and tenants file say of processing, and what is said of contradictions."""

from __future__ import annotations

import pytest

from tusgate.core.errors import SettingsError
from tusgate.core.processing import Chosen, Declared, Processing
from tusgate.settings import Settings, load_settings
from tusgate.settings.processing import names_of_processors, processing_of
from tusgate.settings.tenants import load_tenancy

SCAN = Declared("scan", 1, ("*/*",))


@pytest.fixture
def load(tmp_path):
    def read(text, **settings):
        path = tmp_path / "tenants.toml"
        path.write_text(text)
        loaded = Settings(tenants_file=path, **settings)
        return loaded, load_tenancy(loaded)

    return read


def test_nothing_is_processed_unless_that_is_wanted():
    settings = Settings()
    assert names_of_processors(settings, load_tenancy(settings)) == []
    assert processing_of(settings, load_tenancy(settings), []) is None


def test_processors_are_named_in_the_settings_and_by_tenants(load):
    settings, tenancy = load(
        "unknown_tenants = 'default'\n[tenants.acme]\nprocessors = ['scan', 'words']\npublish_when_clean = ['scan']\n"
        "[tenants.archive]\nprocessors = []\n",
        processors=["thumbnail"],
        external_processors="words=text/* application/pdf",
        auth="open,token",
    )
    assert names_of_processors(settings, tenancy) == ["thumbnail", "scan"]
    thumbnail, words = Declared("thumbnail", 1, ("image/*",)), Declared("words", 1, ("text/*", "application/pdf"))
    usual = Chosen(("thumbnail", "words"))
    assert processing_of(settings, tenancy, [thumbnail, SCAN]) == Processing(
        (thumbnail, SCAN, words),
        usual,
        {"default": usual, "acme": Chosen(("scan", "words"), frozenset({"scan"})), "archive": Chosen()},
    )


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"publish_when_clean": "scan"}, "TUSGATE_PUBLISH_WHEN_CLEAN"),
        ({"processors": "scan", "external_processors": "scan=*/*"}, "TUSGATE_EXTERNAL_PROCESSORS"),
        ({"external_processors": "scan"}, "TUSGATE_EXTERNAL_PROCESSORS"),
        ({"external_processors": "=text/*"}, "TUSGATE_EXTERNAL_PROCESSORS"),
        ({"external_processors": "words=text/*"}, "TUSGATE_AUTH: expected token, jwt or proxy"),
        ({"external_processors": "w=*/*", "auth": "upload-token", "upload_token_keys": "k" * 32}, "TUSGATE_AUTH"),
        ({"worker_jobs": "0"}, "TUSGATE_WORKER_JOBS"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, named):
    with pytest.raises(SettingsError, match=named):
        load_settings(given)


def test_a_tenant_whose_files_nobody_would_ever_read_is_refused(load):
    settings, tenancy = load("[tenants.acme]\nprocessors = []\n", processors=["scan"], publish_when_clean=["scan"])
    with pytest.raises(SettingsError, match=r"tenants\.acme\.publish_when_clean: .*, got scan"):
        processing_of(settings, tenancy, [SCAN])
