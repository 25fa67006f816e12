"""Hooks that are Python code of others, found by an entry point of the group `tusgate.hooks`.

An entry point names a callable that takes the hook's name and its options, and returns a `ports.Hook`. It runs in
the event loop of the gateway: whatever blocks belongs into a thread.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from tusgate.core.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tusgate.ports import Hook

GROUP: Final = "tusgate.hooks"


def load_plugin(name: str, plugin: str, options: Mapping[str, Any]) -> Hook:
    """Return the hook `name` that the entry point `plugin` makes. Raises SettingsError, telling what was wrong."""
    found = entry_points(group=GROUP, name=plugin)
    if not found:
        known = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise SettingsError(
            f"TUSGATE_HOOKS: {name}: plugin: expected an entry point of {GROUP} ({known}), got {plugin}"
        )
    try:
        made: Hook = next(iter(found)).load()(name, options)
    except Exception as error:
        raise SettingsError(
            f"TUSGATE_HOOKS: {name}: {plugin} did not start ({type(error).__name__}: {error})"
        ) from error
    for method in ("ask", "close"):
        if not callable(getattr(made, method, None)):
            raise SettingsError(f"TUSGATE_HOOKS: {name}: {plugin} is no hook: {method}: expected a method")
    return made
