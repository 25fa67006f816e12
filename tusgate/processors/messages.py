"""What the process of a job is told and what it says, in lines of JSON, and what is believed of it.

That process may have been taken over by the file that it looks at, so all that it says is checked: the form in
`said_in`, the files that it names in `result_of`.
"""

from __future__ import annotations

import json
import stat
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, TypeAdapter, ValidationError

from tusgate.core.processing import MOST_DERIVED
from tusgate.processors.contract import Derived, ProcessorFailed, Result
from tusgate.processors.registry import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tusgate.processors.contract import Json, Source
    from tusgate.processors.limits import Limits

MOST_SAID: Final = 1 << 18
"""Bytes that a job may say altogether: facts are for people, and go into a row of the database."""

_Name = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
_ContentType = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.+-]{1,100}/[A-Za-z0-9_.+-]{1,100}$")]
_Filename = Annotated[str, StringConstraints(pattern=r"^[^/\x00-\x1f\x7f]{1,200}$")]
_Reason = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Progress(_Said):
    """Which part of the work is done."""

    progress: float = Field(ge=0, le=1)


class Failed(_Said):
    """The work cannot be done, and why."""

    failed: _Reason
    permanent: bool


class Made(_Said):
    """One file that was made; the path may be anything until it has been looked at."""

    path: str
    name: _Name
    content_type: _ContentType
    filename: _Filename


class Done(_Said):
    """The work is done."""

    derived: list[Made] = Field(max_length=MOST_DERIVED)
    facts: dict[str, JsonValue]
    refused: _Reason | None


Said: TypeAlias = Progress | Failed | Done
_SAID: Final[TypeAdapter[Said]] = TypeAdapter(Said)


def request(processor: str, source: Source, limits: Limits) -> bytes:
    """Return the line that a job is begun with."""
    told = {
        "processor": processor,
        "source": {**asdict(source), "path": str(source.path.absolute())},
        "limits": asdict(limits),
    }
    return json.dumps(told).encode() + b"\n"


def said_in(line: bytes) -> Said:
    """Return what a line says. Raises ProcessorFailed for one that makes no sense."""
    try:
        return _SAID.validate_json(line)
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_context=False, include_input=False)[-1]
        place = ".".join(str(step) for step in mistake["loc"])
        raise ProcessorFailed(f"the processor said what makes no sense ({place}: {mistake['msg']})", True) from None


def result_of(done: Done, workspace: Path) -> Result:
    """Return what a job has made. To be asked when none of its processes can change the files any more.

    Raises:
        ProcessorFailed: a file is not one of its own in `workspace`, or two have one name.
    """
    if len({made.name for made in done.derived}) < len(done.derived):
        raise ProcessorFailed("the processor made two files of one name", True)
    home = workspace.resolve()
    derived = tuple(
        Derived(_own_file(home, made), made.name, made.content_type, made.filename) for made in done.derived
    )
    return Result(derived=derived, facts=cast("Mapping[str, Json]", done.facts), refused=done.refused)


def _own_file(home: Path, made: Made) -> Path:
    """Return the path of a file that lies in `home` itself: no link leads to it, and it is no other name of another."""
    try:
        path = home / made.path
        status = path.lstat()
        lies_there = path.resolve(strict=True) == path and path.is_relative_to(home)
    except (OSError, ValueError):
        raise ProcessorFailed(f"the processor made no file {made.name}", True) from None
    if not (lies_there and stat.S_ISREG(status.st_mode) and status.st_nlink == 1):
        raise ProcessorFailed(f"the file {made.name} is not a regular one in the workspace", True)
    return path
