"""What `deploy/compose.yaml` says, with the variables of an env file filled in as Compose would."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from dotenv import dotenv_values

if TYPE_CHECKING:
    from collections.abc import Mapping

DEPLOY = Path(__file__).parents[2] / "deploy"
ENV_EXAMPLE = DEPLOY / ".env.example"

_VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?::(?P<how>[-?])(?P<text>[^}]*))?\}")


def example_environment() -> dict[str, str]:
    """Return the variables of `.env.example`."""
    return {name: value or "" for name, value in dotenv_values(ENV_EXAMPLE, interpolate=False).items()}


def text() -> str:
    """Return compose.yaml as it is shipped."""
    return (DEPLOY / "compose.yaml").read_text(encoding="utf-8")


def variables() -> dict[str, bool]:
    """Return the names of the variables that compose.yaml uses, and whether each is mandatory."""
    found: dict[str, bool] = {}
    for match in _VARIABLE.finditer(text()):
        found[match["name"]] = found.get(match["name"], False) or match["how"] in {"?", None}
    return found


def services(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the services with `environment` filled in. KeyError when a mandatory variable is missing."""

    def value_of(match: re.Match[str]) -> str:
        given = environment.get(match["name"])
        if given:
            return given
        if match["how"] == "-":
            return str(match["text"])
        raise KeyError(match["name"])

    # Compose fills in values after parsing: a value may hold what means something in YAML.
    def filled(node: Any) -> Any:
        match node:
            case str():
                return _VARIABLE.sub(value_of, node)
            case list():
                return [filled(item) for item in node]
            case dict():
                return {key: filled(value) for key, value in node.items()}
            case _:
                return node

    parsed: dict[str, Any] = filled(yaml.safe_load(text())["services"])
    return parsed


def environment_of(service: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a service's container gets."""
    return {name: str(value) for name, value in services(environment)[service]["environment"].items()}
