"""How sinks are declared: a list of tables in TOML, or the same as JSON in one variable. Secrets stand in files.

Rule: what is wrong is told with the name of the sink and of the key, and never with a value that may be secret.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Protocol, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_settings import NoDecode

from tusgate.core.errors import SettingsError
from tusgate.core.events import EventType
from tusgate.settings.brokers import AnyBroker
from tusgate.settings.declared import Declared, Name
from tusgate.settings.kinds import Duration, File, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every secret begins with, and none itself
SECRET_SIZES: Final = range(24, 65)
"""Bytes of a secret; Standard Webhooks."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or parts.fragment:
        raise ValueError("expected an http or https URL")
    if parts.username or parts.password:
        raise ValueError("expected a URL without a password")
    return value


TusdEvent = Literal[EventType.CREATED, EventType.PROGRESS, EventType.COMPLETED, EventType.TERMINATED, EventType.DELETED]


class Reached(BaseModel):
    """A receiver of signed HTTP requests."""

    setting: ClassVar[str] = "TUSGATE_SINKS"
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Name
    url: Annotated[str, AfterValidator(_address)]
    secret_files: tuple[File, ...] = ()

    @property
    def host_and_port(self) -> tuple[str, int]:
        """Return what the allowlist would name."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme]

    def secrets(self) -> tuple[str, ...]:
        """Return the secrets in its files. Raises SettingsError."""
        return tuple(self._secret_in(path) for path in self.secret_files)

    def _secret_in(self, path: Path) -> str:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text"
            raise SettingsError(
                f"{self.setting}: {self.name}: secret_files: expected readable files, got {path} ({reason})"
            ) from None
        try:
            size = len(base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True))
        except binascii.Error:
            size = 0
        if not text.startswith(SECRET_PREFIX) or size not in SECRET_SIZES:
            raise SettingsError(
                f"{self.setting}: {self.name}: secret_files: expected {SECRET_PREFIX} and the base64 of 24 to 64 bytes"
                f" in {path}"
            )
        return text


class _Posted(Declared, Reached):
    """A sink that is told by HTTP."""

    timeout: Duration = Field(15.0, gt=0, le=30.0)

    @property
    def longest(self) -> float:
        """Return somewhat more than its own time-out."""
        return self.timeout + 5.0


class WebhookDeclared(_Posted):
    """A receiver of CloudEvents."""

    type: Literal["webhook"]
    secret_files: Annotated[tuple[File, ...], Field(min_length=1)]


class TusdDeclared(_Posted):
    """A server for the post-hooks of tusd."""

    type: Literal["tusd"]
    events: tuple[TusdEvent, ...] = (
        EventType.CREATED,
        EventType.COMPLETED,
        EventType.TERMINATED,
        EventType.DELETED,
    )


class FileDeclared(Declared):
    """Lines at the end of a file."""

    type: Literal["file"]
    path: File


class StdoutDeclared(Declared):
    """Lines on stdout."""

    type: Literal["stdout"]


class Named(Protocol):
    """What every item of such a list has."""

    @property
    def name(self) -> str:
        """Unique in its list."""

    @property
    def type(self) -> str:
        """Which kind of item it is."""


Item = TypeVar("Item", bound=Named)
AnySink = WebhookDeclared | TusdDeclared | FileDeclared | StdoutDeclared | AnyBroker
_LIST: Final[TypeAdapter[tuple[AnySink, ...]]] = TypeAdapter(
    tuple[Annotated[AnySink, Field(discriminator="type")], ...]
)


def declared(value: object, form: TypeAdapter[tuple[Item, ...]], kinds: object, setting: str) -> tuple[Item, ...]:
    """Return the items that a setting declares, each with a name and of a type.

    Args:
        value: what stands there.
        form: checks all of them.
        kinds: the union of what an item may be.
        setting: for errors.

    Raises SettingsError, or ValueError for something else than a list.
    """
    items = json.loads(value) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError  # noqa: TRY004 - what pydantic turns into a validation error
    try:
        found = form.validate_python(items)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        told = f"type: expected one of {_types(kinds)}" if first["type"].startswith("union_tag") else first["msg"]
        raise SettingsError(f"{setting}: {_place(items, first['loc'])}: {told}") from None
    names = [item.name for item in found]
    if len(names) != len(set(names)):
        raise SettingsError(f"{setting}: expected each name once")
    return found


def _declared(value: object) -> tuple[AnySink, ...]:
    return declared(value, _LIST, AnySink, "TUSGATE_SINKS")


def _types(kinds: object) -> str:
    return ", ".join(get_args(kind.model_fields["type"].annotation)[0] for kind in get_args(kinds))


def _place(items: Sequence[Any], location: tuple[str | int, ...]) -> str:
    number = int(location[0]) if location else 0
    item = items[number] if number < len(items) else None
    name, kind = (item.get("name"), item.get("type")) if isinstance(item, dict) else (None, None)
    keys = [str(key) for key in location[1:] if key != kind]
    return ": ".join([str(name or f"number {number + 1}"), *keys])


def show(items: Iterable[Named]) -> str:
    """Return items as operators see them."""
    return ", ".join(f"{item.name} ({item.type})" for item in items) or "none"


def host_and_port(value: str) -> tuple[str, int]:
    """Return the host and the port of `host:port`; an IPv6 address stands in brackets. Raises ValueError."""
    parts = urlsplit(f"//{value}")
    if not parts.hostname or parts.port is None or parts.netloc != value or "@" in value:
        raise ValueError
    return parts.hostname, parts.port


def _hosts(value: object) -> object:
    if isinstance(value, str):
        value = [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list | tuple):
        return tuple(host_and_port(item) if isinstance(item, str) else item for item in value)
    return value


def _show_host(host: str, port: int) -> str:
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        version = 4
    return f"[{host}]:{port}" if version == 6 else f"{host}:{port}"


Sinks = Annotated[
    tuple[AnySink, ...],
    NoDecode,
    BeforeValidator(_declared),
    Kind("JSON", "a list of sinks, each with a name and a type, see docs/events.md", show),
]
HostAndPort = Annotated[
    tuple[str, int],
    NoDecode,
    BeforeValidator(lambda value: host_and_port(value.strip()) if isinstance(value, str) else value),
    Kind("HOST:PORT", "a host and a port such as 127.0.0.1:9464", lambda place: _show_host(*place)),
]
HostsAndPorts = Annotated[
    tuple[tuple[str, int], ...],
    NoDecode,
    BeforeValidator(_hosts),
    Kind(
        "HOST:PORT",
        "hosts with ports such as hooks.internal:8443, separated by commas",
        lambda hosts: ",".join(_show_host(*each) for each in hosts) or "none",
    ),
]
