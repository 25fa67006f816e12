"""What a processor is, what it is given and what it gives back. Processors of others are written against this."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


@dataclass(frozen=True)
class Source:
    """The file to look at.

    Attributes:
        path: absolute; a copy that belongs to the job.
        size: bytes.
        content_type: as the client has declared it, or None. Nobody has checked that it is true.
        filename: as the client has declared it, or None. Not a path: it may contain anything.
    """

    path: Path
    size: int
    content_type: str | None
    filename: str | None


@dataclass(frozen=True)
class Derived:
    """A file that was made of the source, and becomes one of its own.

    Attributes:
        path: a regular file in the workspace.
        name: what it is to the source, such as `thumbnail`: lower case letters, digits and dashes.
        content_type: what it is downloaded as.
        filename: what it is saved as; without slashes.
    """

    path: Path
    name: str
    content_type: str
    filename: str


@dataclass(frozen=True)
class Result:
    """What came of a job that ran to its end.

    Attributes:
        derived: at most `core.processing.MOST_DERIVED`, with names that differ.
        facts: what is known of the source now, shown to its owner; small, and JSON without NaN.
        refused: why the source must not be published, such as the name of a virus; None when nothing speaks against it.
    """

    derived: tuple[Derived, ...] = ()
    facts: Mapping[str, Json] = field(default_factory=dict)
    refused: str | None = None


class ProcessorError(Exception):
    """Raised by a processor that cannot do its work. The text is shown to the owner of the file.

    Attributes:
        permanent: another try would end the same way, because of the file.
    """

    def __init__(self, reason: str, permanent: bool = True) -> None:
        super().__init__(reason)
        self.permanent = permanent


class ProcessorFailed(Exception):
    """Raised by the sandbox: a job has come to no result, whoever is to blame.

    Attributes:
        reason: what the owner of the file may be told.
        permanent: another try would end the same way.
    """

    def __init__(self, reason: str, permanent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent


class Processor(Protocol):
    """Looks at files of some types, in a process of its own for each of them."""

    @property
    def name(self) -> str:
        """Lower case letters, digits and dashes; the name of its entry point."""

    @property
    def version(self) -> int:
        """Rises when the same file would give another result."""

    @property
    def types(self) -> tuple[str, ...]:
        """Patterns of content types, such as `image/*`."""

    @property
    def largest(self) -> int:
        """Bytes that a file may have."""

    @property
    def seconds(self) -> float:
        """How long a job may take by the clock on the wall."""

    @property
    def memory(self) -> int:
        """Bytes of address space that each process of a job may have."""

    def process(self, source: Source, workspace: Path, progress: Callable[[float], None]) -> Result:
        """Do the work, and return what came of it.

        Runs in a process of its own that is killed with all that it has started when it takes too long, when nobody
        wants the result any more, and after it has returned. It may be run again for the same file.

        Args:
            source: the file.
            workspace: an empty directory for whatever is made; also the current one.
            progress: to be told the done part of the work, 0 to 1, as often as one likes.

        Raises:
            ProcessorError: it cannot be done. Whatever else is raised counts as a mistake that may pass.
        """
