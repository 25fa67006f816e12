"""Documents that repeat what the code says are held to it."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest

from tests.audit.rules import RULES
from tusgate.core.lifecycle import TRANSITIONS
from tusgate.core.model import State
from tusgate.settings import Settings
from tusgate.settings.document import settings_page
from tusgate.settings.model import ENV_PREFIX, shown
from tusgate.web.tus import EXTENSIONS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")

LINK = re.compile(r"\]\(([^)\s]+)\)")
EXTERNAL = re.compile(r"[a-z]+:")
NAMED_FILE = re.compile(r"`((?:fault|unit|wire|contract|deploy|clients|abuse|model)/[\w/]+\.py)")
NAMED_TEST = re.compile(r"`([\w/]+\.py)::([\w:]+)`")
SETTING = re.compile(rf"\b{ENV_PREFIX}(?!TEST_)([A-Z0-9_]*[A-Z0-9])\b")
NOT_SETTINGS = {"config"}
"""The variable that only says where the settings are."""


def test_the_settings_page_is_the_one_that_the_model_writes() -> None:
    """To write it anew: `python -m tusgate.settings.document > docs/settings.md`."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == settings_page()


def test_all_settings_of_a_topic_stand_under_one_heading() -> None:
    headings = re.findall(r"^## (.+)$", settings_page(), re.MULTILINE)
    assert sorted({*headings}) == sorted(headings)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_into_the_repository_leads_somewhere(document: Path) -> None:
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if EXTERNAL.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name) if name else document
        assert target.exists(), f"{link} does not exist"
        assert not anchor or anchor in anchors(target), f"{link} has no such heading"


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings of `document`, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_setting_that_a_document_names_exists(document: Path) -> None:
    named = {name.lower() for name in SETTING.findall(document.read_text(encoding="utf-8"))}
    assert named - NOT_SETTINGS <= set(Settings.model_fields)


def test_the_readme_tells_the_defaults_in_force() -> None:
    rows = re.findall(rf"^\| `{ENV_PREFIX}(\w+)` \| (.*?) \|", README, re.MULTILINE)
    assert rows
    told = {name.lower(): default.strip("`") for name, default in rows}
    defaults = Settings()
    assert told == {name: shown(name, getattr(defaults, name)) for name in told}


def test_the_readme_lists_the_extensions_that_are_offered() -> None:
    table = dict(re.findall(r"^\| ([a-z-]+) \| (yes|no|not yet) \|", README, re.MULTILINE))
    assert {name for name, offered in table.items() if offered == "yes"} == {*EXTENSIONS, "expiration"}


def test_the_lifecycle_in_the_architecture_is_the_one_in_force() -> None:
    section = section_of(ARCHITECTURE, "Lifecycle")
    rows = re.findall(r"^\| `(\w+)` \| (.*?) ?\|", section, re.MULTILINE)
    told = {State(state): frozenset(State(name) for name in re.findall(r"`(\w+)`", after)) for state, after in rows}
    assert told == TRANSITIONS


@pytest.mark.parametrize("text", [ARCHITECTURE, RELIABILITY], ids=["ARCHITECTURE.md", "reliability.md"])
def test_every_test_that_a_document_names_exists(text: str) -> None:
    named = NAMED_TEST.findall(text)
    assert named
    missing = [f"{path}::{name}" for path, name in named if name not in names_in(ROOT / "tests" / path)]
    missing += [path for path in NAMED_FILE.findall(text) if not (ROOT / "tests" / path).is_file()]
    assert missing == []


def test_every_invariant_in_the_architecture_names_a_test() -> None:
    rows = re.findall(r"^\| I\d+ \|.*$", section_of(ARCHITECTURE, "Invariants"), re.MULTILINE)
    assert rows
    assert [row for row in rows if not NAMED_TEST.search(row)] == []


def test_the_same_invariants_stand_in_both_documents() -> None:
    told = [
        re.findall(r"^\| (I\d+) \|", section_of(text, "Invariants"), re.MULTILINE)
        for text in (ARCHITECTURE, RELIABILITY)
    ]
    assert {*told[1]} <= {*told[0]}
    assert {*RULES} <= {*told[1]}


def test_the_architecture_explains_every_dependency_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *chain.from_iterable(project["optional-dependencies"].values())]
    required = {re.split(r"[><=;\[ ]", line, maxsplit=1)[0] for line in lines}
    table = section_of(ARCHITECTURE, "Dependencies").partition("| --- |")[2]
    told = dict(re.findall(r"^\| ([\w-]+) \|.*\| (.+?) \|$", table, re.MULTILINE))
    assert set(told) == required
    for name, licence in told.items():
        package = metadata.metadata(name)
        assert licence == (package["License-Expression"] or package["License"]), name


def section_of(text: str, heading: str) -> str:
    """Return what stands under a heading of the second level."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found, f"there is no section {heading}"
    return found[1]


def names_in(path: Path) -> set[str]:
    """Return the names of the tests in a file as pytest writes them; none when there is no such file."""
    if not path.is_file():
        return set()
    module = ast.parse(path.read_text(encoding="utf-8"))
    named = {node.name for node in module.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for group in module.body:
        if isinstance(group, ast.ClassDef):
            named |= {f"{group.name}::{node.name}" for node in group.body if hasattr(node, "name")}
    return named
