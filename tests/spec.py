"""Which protocol requirements have a test: `python -m tests.spec` lists those that have none.

Requirements stand in `wire/requirements.txt`; a test names those it holds by `@pytest.mark.spec(...)`. Exit status 1
when a test names an id that does not exist.
"""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parent / "wire" / "requirements.txt"


def requirements() -> dict[str, str]:
    """Return id to level and rule, in the order of the file."""
    lines = REQUIREMENTS.read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))


@dataclass
class Named:
    """A pytest plugin that notes the requirement ids that the collected tests name."""

    ids: set[str] = field(default_factory=set)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for marker in item.iter_markers("spec"):
                self.ids.update(marker.args)


def main() -> int:
    named = Named()
    # Only where protocols are tested: collecting everything may want servers.
    targets = [str(REQUIREMENTS.parent), str(REQUIREMENTS.parents[1] / "unit")]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        status = pytest.main(["--collect-only", "-q", *targets], plugins=[named])
    if status != pytest.ExitCode.OK:
        print(output.getvalue())
        return int(status)
    known = requirements()
    missing = [name for name in known if name not in named.ids]
    for name in missing:
        print(f"{name} {known[name]}")
    print(f"{len(known) - len(missing)} of {len(known)} requirements have a test")
    unknown = named.ids - known.keys()
    if unknown:
        print(f"tests name unknown requirements: {', '.join(sorted(unknown))}")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
