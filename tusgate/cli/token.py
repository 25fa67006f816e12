"""`tusgate token`: static API tokens are made, listed and revoked here, and nowhere else."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from tusgate.cli.exits import Exit
from tusgate.cli.flags import with_settings
from tusgate.cli.report import stdout_console
from tusgate.core.access import USER, Permission, parse_permissions, scope_of
from tusgate.core.errors import InvalidCredentials, SettingsError
from tusgate.settings import Loaded  # noqa: TC001 - flags.py evaluates the annotations
from tusgate.settings.kinds import parse_duration
from tusgate.telemetry import configure_logging

if TYPE_CHECKING:
    from tusgate.core.access import ApiToken
    from tusgate.core.model import Scope

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def create(
    loaded: Loaded,
    *,
    owner: Annotated[str, typer.Option("--owner", help="Whose uploads it is for; the sub of their other tokens.")],
    tenant: Annotated[str, typer.Option("--tenant", help="The owner's tenant.")] = "default",
    permissions: Annotated[str, typer.Option("--permissions", help="What it allows, separated by commas.")] = ",".join(
        sorted(USER)
    ),
    expires: Annotated[str, typer.Option("--expires", help="How long it is valid, such as 90d; or none.")] = "none",
    label: Annotated[str, typer.Option("--label", help="What it is for, shown in the list.")] = "",
    as_json: _JSON = False,
) -> None:
    """Make a token and print it. It is shown this once: only a digest of it is kept."""
    _quiet(loaded)
    # Not at the top: the other commands start faster without the server.
    from tusgate.app import create_token
    from tusgate.identity.static_tokens import make_token

    token, new = make_token(_scope(tenant, owner), _permissions(permissions), label, _lifetime(expires))
    made = create_token(loaded.settings, new)
    if as_json:
        print(json.dumps(_facts(made) | {"token": token}))
        return
    print(token)
    ends = f"until {made.expires_at:%Y-%m-%d %H:%M %Z}" if made.expires_at else "until it is revoked"
    print(f"Token {made.id}, valid {ends}. Keep it now: it cannot be shown again.", file=sys.stderr)


def list_(loaded: Loaded, *, as_json: _JSON = False) -> None:
    """List all tokens, without their secrets: the oldest first."""
    _quiet(loaded)
    from tusgate.app import list_tokens

    tokens = list_tokens(loaded.settings)
    if as_json:
        print(json.dumps([_facts(token) for token in tokens], indent=2))
        return
    table = Table("Id", "Tenant", "Owner", "Permissions", "Label", "Last used", "Ends", box=None, pad_edge=False)
    for token in tokens:
        facts = _facts(token)
        ends = "revoked" if token.revoked_at else facts["expires_at"] or "never"
        row = (token.id, token.scope.tenant, token.scope.owner, ",".join(facts["permissions"]), token.label)
        table.add_row(*row, facts["last_used_at"] or "never", ends, style="dim" if token.revoked_at else None)
    stdout_console().print(table)


def revoke(loaded: Loaded, token_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Revoke a token for good. Gateways refuse it within 5 s; uploads that it began can be continued with another."""
    _quiet(loaded)
    from tusgate.app import revoke_token

    if revoke_token(loaded.settings, token_id) is None:
        print(f"tusgate: there is no token {token_id}", file=sys.stderr)
        sys.exit(Exit.FAILED)
    print(f"Token {token_id} is revoked.", file=sys.stderr)


token = typer.Typer(help="Make, list and revoke API tokens.", no_args_is_help=True)
token.command("create")(with_settings(create))
token.command("list")(with_settings(list_))
token.command("revoke")(with_settings(revoke))


def _quiet(loaded: Loaded) -> None:
    configure_logging(loaded.settings.model_copy(update={"log_level": "error"}))


def _scope(tenant: str, owner: str) -> Scope:
    try:
        return scope_of(tenant, owner)
    except InvalidCredentials as error:
        raise SettingsError(f"--tenant, --owner: {error}") from None


def _permissions(text: str) -> frozenset[Permission]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    try:
        return parse_permissions(names)
    except ValueError:
        raise SettingsError(f"--permissions: expected any of {', '.join(Permission)}, got {text!r}") from None


def _lifetime(text: str) -> float | None:
    """Return seconds, None for `none`."""
    if text.strip().lower() == "none":
        return None
    try:
        seconds = parse_duration(text)
    except ValueError:
        seconds = None
    if not isinstance(seconds, float) or not 0 < seconds < float("inf"):
        raise SettingsError(f"--expires: expected a duration such as 90d, or none, got {text!r}")
    return seconds


def _facts(token: ApiToken) -> dict[str, Any]:
    """Return what may be shown of a token."""
    times = {name: getattr(token, name) for name in ("created_at", "expires_at", "last_used_at", "revoked_at")}
    return {
        "id": token.id,
        "tenant": token.scope.tenant,
        "owner": token.scope.owner,
        "permissions": sorted(token.permissions),
        "label": token.label,
        **{name: time.isoformat(timespec="seconds") if time else None for name, time in times.items()},
    }
