"""The processor in docs/processors.md works as it stands there, and the tables say what the code says."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest

from tusgate.core.processing import MOST_DERIVED
from tusgate.processors import ProcessorFailed, Result, Source, sandbox
from tusgate.processors.limits import DESCRIPTORS
from tusgate.processors.messages import MOST_SAID
from tusgate.processors.registry import SHIPPED, find
from tusgate.settings.kinds import show_size

DOCUMENT = (Path(__file__).parents[3] / "docs" / "processors.md").read_text(encoding="utf-8")
TIMES = {"min": 60, "h": 3600}


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


@pytest.fixture
def excerpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example, installed."""
    project = tomllib.loads(block("toml"))["project"]
    site = tmp_path / "site"
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (site / "excerpt.py").write_text(block("python"))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    for group, points in project["entry-points"].items():
        lines = [f"{name} = {where}" for name, where in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "excerpt", raising=False)


async def excerpt_of(text: str, tmp_path: Path) -> Result:
    (tmp_path / "source").write_text(text)
    (tmp_path / "workspace").mkdir(exist_ok=True)
    source = Source(tmp_path / "source", len(text.encode()), "text/plain", "story.txt")
    return await sandbox.run("excerpt", source, tmp_path / "workspace", lambda done: None)


@pytest.mark.slow
async def test_the_processor_in_the_document_works_as_it_stands(excerpt: None, tmp_path: Path) -> None:
    result = await excerpt_of("Once upon a time.\nThe end.\n", tmp_path)
    assert result.facts == {"words": 6}
    assert [(made.name, made.filename, made.path.read_text()) for made in result.derived] == [
        ("excerpt", "excerpt.txt", "Once upon a time.\nThe end.\n")
    ]
    assert await excerpt_of("This is Top Secret.", tmp_path) == Result(refused="secret")
    with pytest.raises(ProcessorFailed, match="there are no words in it"):
        await excerpt_of("\n", tmp_path)


def rows(heading: str) -> list[list[str]]:
    section = DOCUMENT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"][
        2:
    ]


def test_the_table_of_processors_has_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    told = {name.strip("`"): cells for name, *cells in rows("What comes with it")}
    assert tuple(told) == SHIPPED
    for processor in find(SHIPPED):
        _, _, largest, time, memory, _ = told[processor.name]
        count, unit = time.split()
        assert largest.replace(" ", "") == show_size(processor.largest)
        assert float(count) * TIMES[unit] == processor.seconds
        size, unit = memory.split()
        assert float(size) * {"MiB": 1 << 20, "GiB": 1 << 30}[unit] == processor.memory


def test_the_table_of_limits_says_what_holds() -> None:
    told = {what: limit for what, limit, _ in rows("Limits")}
    assert told["open files of each process"] == str(DESCRIPTORS)
    assert told["what a run may say (facts, progress)"].replace(" ", "") == show_size(MOST_SAID)
    assert told["derived files"] == str(MOST_DERIVED)
