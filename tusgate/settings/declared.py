"""What the declarations of all sinks have in common, and how their secrets are read.

Rule: what is wrong is told with the name of the sink and of the key, and never with a value that may be secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from tusgate.core.errors import SettingsError
from tusgate.core.events import USUAL_TYPES, EventType
from tusgate.settings.kinds import Count, Duration

if TYPE_CHECKING:
    from pathlib import Path


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Of a sink or a hook."""


class Declared(BaseModel):
    """What all kinds of sinks have. See docs/events.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Name
    events: tuple[EventType, ...] = USUAL_TYPES
    tenants: tuple[str, ...] = ()
    retries: Count = Field(3, ge=0, le=1000)
    retry_delay: Duration = Field(10.0, gt=0, le=86_400.0)

    @property
    def longest(self) -> float:
        """Return the seconds after which a try is broken off, whatever it is at."""
        return 20.0

    def check(self) -> None:
        """Look at the files that it names. Raises SettingsError."""

    def wrong(self, key: str, message: str) -> SettingsError:
        """Return the error that says what is wrong with one of its keys."""
        return SettingsError(f"TUSGATE_SINKS: {self.name}: {key}: {message}")

    def secret_in(self, path: Path, key: str) -> str:
        """Return the text of a file, without the blanks around it. Raises SettingsError."""
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text"
            raise self.wrong(key, f"expected readable files, got {path} ({reason})") from None
