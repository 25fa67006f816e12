"""What has no test: `python -m tests.spec` lists the protocol requirements and the cases of failure that no test names.

Requirements stand in `wire/requirements.txt`; a test names those it holds by `@pytest.mark.spec(...)`. Cases stand in
`fault/cases.txt`; a test names them in its docstring. Exit status 1 when a test names an id that does not exist.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

TESTS = Path(__file__).parent
REQUIREMENTS = TESTS / "wire" / "requirements.txt"
CASES = TESTS / "fault" / "cases.txt"
CASE_ID = re.compile(r"\b(?:PA|CR|DF|CC|RE|GC|DM|EV|AT|DL)-\d\d\b")


def rules_in(file: Path) -> dict[str, str]:
    """Return id to rule, in the order of the file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


def cases_named() -> set[str]:
    """Return the ids of the cases that test modules name.

    They are read and not collected: many of them want servers.
    """
    return {name for module in TESTS.rglob("test_*.py") for name in CASE_ID.findall(module.read_text(encoding="utf-8"))}


@dataclass
class Named:
    """A pytest plugin that notes the requirement ids that the collected tests name."""

    ids: set[str] = field(default_factory=set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for marker in item.iter_markers("spec"):
                self.ids.update(marker.args)


def report(what: str, known: Mapping[str, str], named: Set[str]) -> bool:
    """Print which of the known ids no test names; return whether all named ones are known."""
    missing = [name for name in known if name not in named]
    for name in missing:
        print(f"{name} {known[name]}")
    print(f"{len(known) - len(missing)} of {len(known)} {what} have a test")
    unknown = named - known.keys()
    if unknown:
        print(f"tests name unknown {what}: {', '.join(sorted(unknown))}")
    return not unknown


def main() -> int:
    named = Named()
    # Only where protocols are tested: collecting everything may want servers.
    targets = [str(REQUIREMENTS.parent), str(TESTS / "unit")]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = pytest.main(["--collect-only", "-q", *targets], plugins=[named])
    if status != pytest.ExitCode.OK:
        print(output.getvalue())
        return int(status)
    told = [report("requirements", rules_in(REQUIREMENTS), named.ids), report("cases", rules_in(CASES), cases_named())]
    return 0 if all(told) else 1


if __name__ == "__main__":
    sys.exit(main())
