"""Where settings come from, in which order, and the one line that says what is wrong.

Rule 1: flags outrank the environment, then `.env`, then the TOML file, then defaults.
Rule 2: a setting and its `*_FILE` variant are one setting: the source that ranks higher wins.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError
from pydantic_settings import DotEnvSettingsSource, EnvSettingsSource, TomlConfigSettingsSource

from tusgate.core.errors import SettingsError
from tusgate.settings.model import ENV_PREFIX, SECRET_FILES, Settings, is_secret, kind_of, wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

CONFIG_FILE: Final = "tusgate.toml"
"""Read from the working directory when no other file is named."""
TEST_PREFIX: Final = "TUSGATE_TEST_"
"""Variables that the test suite reads; no settings of a gateway."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings and where each of them came from.

    Attributes:
        origins: field name to `command line`, `environment`, `.env` or the TOML file; a default has no entry.
    """

    settings: Settings
    origins: Mapping[str, str]

    def origin(self, name: str) -> str:
        """Return where the value of the setting `name` came from."""
        default = self.origins.get(f"{name}_file", "default") if name in SECRET_FILES else "default"
        return self.origins.get(name, default)


def load_settings(flags: Mapping[str, str] | None = None, config: Path | None = None) -> Loaded:
    """Read all sources and return valid settings.

    Args:
        flags: field name to text, as given on the command line.
        config: TOML file; else TUSGATE_CONFIG, else `tusgate.toml` in the working directory if there is one.

    Raises:
        SettingsError: one line that names the setting, what was expected and what was found.
    """
    merged: dict[str, object] = {}
    origins: dict[str, str] = {}
    for origin, values in _sources(flags or {}, config).items():
        _check_names(origin, values)
        taken = {name.removesuffix("_file") for name in merged}
        fresh = {name: value for name, value in values.items() if name.removesuffix("_file") not in taken}
        merged |= fresh
        origins |= dict.fromkeys(fresh, origin)
    return Loaded(_validated(merged, origins), origins)


def _validated(values: Mapping[str, object], origins: Mapping[str, str]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0])
        raise _with_origin(wrong(name, _expectation(name, first), _found(name, values)), origins) from None
    except SettingsError as error:
        raise _with_origin(error, origins) from None


def _sources(flags: Mapping[str, str], config: Path | None) -> dict[str, dict[str, object]]:
    """Return the values of each source, the highest first."""
    environment = EnvSettingsSource(Settings)
    dotenv = DotEnvSettingsSource(Settings, env_file=".env")
    sources = {
        "command line": dict[str, object](flags),
        "environment": _named(environment.env_vars),
        ".env": _named(dotenv.env_vars),
    }
    for values in sources.values():
        named = values.pop("config", None)
        config = config or (Path(str(named)) if named else None)
    if config is not None and not config.is_file():
        raise wrong("config", "a readable TOML file", config)
    path = config or Path(CONFIG_FILE)
    return sources | {str(path): _toml(path)}


def _named(variables: Mapping[str, str | None]) -> dict[str, object]:
    """Return what is set under our prefix, misspelt names included; keys come in lower case."""
    prefix, reserved = ENV_PREFIX.lower(), TEST_PREFIX.lower()
    return {
        name.removeprefix(prefix): value
        for name, value in variables.items()
        if name.startswith(prefix) and not name.startswith(reserved)
    }


def _toml(path: Path) -> dict[str, object]:
    try:
        return TomlConfigSettingsSource(Settings, path).toml_data
    except (ValueError, OSError) as error:
        raise SettingsError(f"{path}: expected a TOML file, got an error: {error}") from None


def _check_names(origin: str, values: Mapping[str, object]) -> None:
    for name in values:
        if name not in Settings.model_fields:
            near = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f" (did you mean {ENV_PREFIX}{near[0].upper()}?)" if near else ""
            raise SettingsError(f"{ENV_PREFIX}{name.upper()}: expected a known setting{hint}, found in {origin}")
    for name in SECRET_FILES:
        if name in values and f"{name}_file" in values:
            raise wrong(name, f"either it or {ENV_PREFIX}{name.upper()}_FILE, not both ({origin})")


def _with_origin(error: SettingsError, origins: Mapping[str, str]) -> SettingsError:
    name = str(error).partition(":")[0].removeprefix(ENV_PREFIX).lower()
    return SettingsError(f"{error} ({origins[name]})") if name in origins else error


def _expectation(name: str, error: ErrorDetails) -> str:
    """Return what goes after "expected": the bound that was missed, or how such values are written."""
    kind = kind_of(name)
    bound = re.search(r"(greater|less) than (or equal to )?([0-9.]+)", error["msg"])
    if bound is None:
        return kind.expected
    words = {
        ("greater", True): "at least",
        ("greater", False): "more than",
        ("less", True): "at most",
        ("less", False): "less than",
    }
    number = float(bound[3])
    return f"{words[bound[1], bool(bound[2])]} {kind.show(int(number) if number.is_integer() else number)}"


def _found(name: str, values: Mapping[str, object]) -> str:
    return "a value that is not shown" if is_secret(name) else repr(values.get(name))
