"""Flags that say which rows of the database a command means, for commands that share them."""

from __future__ import annotations

import functools
import inspect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError

from tusgate.settings.kinds import Duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from tusgate.settings import Loaded

MOMENT: Final = "a duration before now such as 2h, or a time such as 2027-01-31T12:00Z"
"""What `moment` takes, for help and errors."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
Everything = Annotated[bool, typer.Option("--all", help="Without this, something has to be named.")]


def choosing(search: Callable[..., Any], **defaults: object) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of `search`; what `search` returns for them is the command's second argument.

    Args:
        search: has flags of typer for parameters, by keyword only.
        defaults: of flags that have another default for this command.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        flags = inspect.signature(search, eval_str=True).parameters
        loaded, _, *own = inspect.signature(command, eval_str=True).parameters.values()

        @functools.wraps(command)
        def wrapper(loaded: Loaded, **given: Any) -> None:
            command(loaded, search(**{name: given.pop(name) for name in flags}), **given)

        chosen = {**flags, **{name: flags[name].replace(default=value) for name, value in defaults.items()}}
        # with_settings reads the flags from the signature.
        wrapper.__signature__ = inspect.Signature([loaded, *chosen.values(), *own])  # type: ignore[attr-defined]  # functions may carry one
        return wrapper

    return decorate


def check_named(everything: bool, *named: object) -> None:
    """Refuse to act on all there is unless that was asked for. Raises BadParameter."""
    if not everything and not any(named):
        raise typer.BadParameter("say which, or --all")


def moment(text: str | None, flag: str) -> datetime | None:
    """Return the time that `text` names. Raises BadParameter for anything but `MOMENT`."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=TypeAdapter(Duration).validate_python(text))
        except ValidationError:
            raise typer.BadParameter(f"expected {MOMENT}", param_hint=flag) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
