"""One command-line flag for each setting, made from the model of the settings."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tusgate.settings import Settings, load_settings
from tusgate.settings.model import ENV_PREFIX, help_of, is_secret, kind_of, shown, topic_of

if TYPE_CHECKING:
    from collections.abc import Callable

_CONFIG = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help=f"TOML file with settings.  [{ENV_PREFIX}CONFIG]"),
]


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with a flag for each setting.

    `command` takes the loaded settings as its first argument; its other parameters are flags of its own. Wrong
    settings raise SettingsError before it runs.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @functools.wraps(command)
    def wrapper(config: Path | None = None, **flags: str | None) -> None:
        others = {parameter.name: flags.pop(parameter.name) for parameter in own}
        command(load_settings({name: text for name, text in flags.items() if text is not None}, config), **others)

    parameters = [
        *own,
        _parameter("config", _CONFIG),
        *(_parameter(name, _flag(name)) for name in Settings.model_fields),
    ]
    # Typer reads the flags from the signature and the annotations; both have to tell the same.
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions may carry one
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _parameter(name: str, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag(name: str) -> object:
    default = shown(name, Settings.model_fields[name].default)
    seen = " Visible to all users of this machine: prefer the file." if is_secret(name) else ""
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=kind_of(name).label,
        help=f"{help_of(name)}{seen}  [{ENV_PREFIX}{name.upper()}; default: {default or 'empty'}]",
        rich_help_panel=topic_of(name),
        show_default=False,
    )
    return Annotated[str | None, option]
