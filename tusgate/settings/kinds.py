"""How the values of settings are written: `8MiB` and `24h` outside, bytes and seconds inside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, IPvAnyNetwork, SecretStr
from pydantic_settings import NoDecode

from tusgate.core.access import Permission
from tusgate.core.addresses import place_of
from tusgate.core.errors import SettingsError
from tusgate.core.naming import check_template
from tusgate.crash import JOB_STEPS, STEPS, parse

if TYPE_CHECKING:
    from collections.abc import Callable

_SHORTEST_SECRET: Final = 32
"""Bytes of a key for HS256 (RFC 7518, 3.2)."""
MASK: Final = "***"
"""Stands for a secret in everything that is shown."""
_SIZES: Final = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_TIMES: Final = {"w": 604_800.0, "d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|[wdhms]))+", re.ASCII)
_DURATION_STEP: Final = re.compile(r"([0-9.]+)(ms|[wdhms])", re.ASCII)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the value of a setting is written.

    Attributes:
        label: stands for the value in help and documentation.
        expected: completes "expected ..." in errors.
        show: writes a value the way a person would.
    """

    label: str
    expected: str
    show: Callable[[Any], str] = str


def parse_duration(value: object) -> object:
    """Return seconds for `24h`, `1h30m`, `250ms` or a plain number; raise ValueError for other text."""
    if not isinstance(value, str):
        return value
    text = value.strip().replace(" ", "")
    if _DURATION.fullmatch(text):
        return sum(float(number) * _TIMES[unit] for number, unit in _DURATION_STEP.findall(text))
    return float(text)


def show_duration(seconds: float) -> str:
    """Return `seconds` in the largest unit up to days that divides it: `90.0` is `90s`, `3600.0` is `1h`."""
    for unit, size in _TIMES.items():
        if unit != "w" and seconds >= size and seconds % size == 0:
            return f"{seconds / size:.12g}{unit}"
    return f"{seconds:.12g}s"


def show_size(size: int) -> str:
    """Return `size` in the largest binary unit that divides it: 8388608 is `8MiB`."""
    for unit, factor in _SIZES.items():
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(int(size))


def _refuse_truth(value: object) -> object:
    """Keep TOML's `true` from counting as 1."""
    if isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - what pydantic turns into a validation error
    return value


def _none_word(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _without_per_second(value: object) -> object:
    return value.strip().removesuffix("/s") if isinstance(value, str) else value


def _whole_number(value: object) -> object:
    return int(value) if isinstance(value, str) else value


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


def _split_external(value: object) -> object:
    """Return names with their types; each is written name=TYPES, with blanks between types."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    if not all(name.strip() and types.split() for name, _, types in pairs):
        raise ValueError
    return [(name.strip(), tuple(types.lower().split())) for name, _, types in pairs]


def _show_external(values: tuple[tuple[str, tuple[str, ...]], ...]) -> str:
    return ",".join(f"{name}={' '.join(types)}" for name, types in values) or "none"


def _show_list(values: tuple[object, ...]) -> str:
    return ",".join(map(str, values)) or "none"


def _web_url(value: str) -> str:
    parts = urlsplit(value.rstrip("/"))
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    if parts.username or parts.password or parts.port == 0:
        raise ValueError
    return value.rstrip("/")


def _server_url(value: str) -> str:
    if urlsplit(_web_url(value)).path:
        raise ValueError
    return value.rstrip("/")


def _cors_origin(value: str) -> str:
    return value if value == "*" else _server_url(value)


def _token_secret(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < _SHORTEST_SECRET:
        raise ValueError
    return value


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", value):
        raise ValueError
    return value


def _base_path(value: str) -> str:
    path = value.rstrip("/")
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path) or {".", ".."} & set(path.split("/")):
        raise ValueError
    return path


def _database_url(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    if parts.scheme in {"postgresql", "postgres"} or (parts.scheme == "sqlite" and parts.path.strip("/")):
        return value
    raise ValueError


def _bucket(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9A-Z][a-zA-Z0-9._-]{1,62}", value, re.ASCII):
        raise ValueError
    return value


def _key_prefix(value: str) -> str:
    if value.startswith("/") or "//" in value or {".", ".."} & set(value.split("/")):
        raise ValueError
    return value


def _key_template(value: str) -> str:
    try:
        check_template(value)
    except SettingsError as error:
        raise ValueError from error
    return value


def _listening_place(value: str) -> str:
    place_of(value)
    return value


def _crash_place(value: str) -> str:
    parse(value)
    return value


def _show_secret(value: SecretStr) -> str:
    return MASK if value.get_secret_value() else ""


def _show_secrets(values: tuple[SecretStr, ...]) -> str:
    return ",".join(MASK for _ in values) or "none"


def show_database_url(value: SecretStr) -> str:
    """Return the URL with its password hidden, wherever in the URL it stands."""
    # Up to the last @: a password with an unescaped one must not show its end.
    text = re.sub(r"(://[^/@:]*):.*@", rf"\1:{MASK}@", value.get_secret_value())
    return re.sub(r"([?&](?:ssl)?password=)[^&]*", rf"\1{MASK}", text)


_SIZE: Final = "a size such as 8MiB, or a number of bytes"
_TIME: Final = "a duration such as 30s, 15m or 24h, or a number of seconds"

Text = Annotated[str, Kind("TEXT", "a text")]
Bucket = Annotated[str, AfterValidator(_bucket), Kind("NAME", "a bucket name of letters, digits, dots and dashes")]
Count = Annotated[int, BeforeValidator(_refuse_truth), Kind("NUMBER", "a whole number")]
GoneStatus = Annotated[Literal[404, 410], BeforeValidator(_whole_number), Kind("404|410", "404 or 410")]
Size = Annotated[ByteSize, BeforeValidator(_refuse_truth), Kind("SIZE", _SIZE, show_size)]
OptionalSize = Annotated[
    ByteSize | None,
    BeforeValidator(_none_word),
    BeforeValidator(_refuse_truth),
    Kind("SIZE", _SIZE + ", or none", show_size),
]
Rate = Annotated[
    ByteSize,
    BeforeValidator(_without_per_second),
    BeforeValidator(_refuse_truth),
    Kind("SIZE/s", "bytes per second, such as 1KiB", lambda rate: f"{show_size(rate)}/s"),
]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    BeforeValidator(_refuse_truth),
    Field(allow_inf_nan=False),
    Kind("DURATION", _TIME, show_duration),
]
OptionalDuration = Annotated[
    Annotated[float, Field(allow_inf_nan=False)] | None,
    BeforeValidator(parse_duration),
    BeforeValidator(_none_word),
    BeforeValidator(_refuse_truth),
    Kind("DURATION", _TIME + ", or none", show_duration),
]
WebUrl = Annotated[str, AfterValidator(_web_url), Kind("URL", "a URL such as https://uploads.example.com")]
ServerUrl = Annotated[
    str,
    AfterValidator(_server_url),
    Kind("URL", "the URL of a server, such as http://127.0.0.1:9000, without a path"),
]
DatabaseUrl = Annotated[
    SecretStr,
    AfterValidator(_database_url),
    Kind("URL", "postgresql://user@host/name or sqlite:///path", show_database_url),
]
UrlPath = Annotated[str, AfterValidator(_base_path), Kind("PATH", "a path such as /files, not /")]
Directory = Annotated[Path, AfterValidator(Path.expanduser), Kind("DIRECTORY", "a directory")]
File = Annotated[Path, AfterValidator(Path.expanduser), Kind("FILE", "a file")]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_cors_origin)], ...],
    NoDecode,
    BeforeValidator(_split_commas),
    Kind("ORIGINS", "* or origins such as https://app.example.com, separated by commas", _show_list),
]
Networks = Annotated[
    tuple[IPvAnyNetwork, ...],
    NoDecode,
    BeforeValidator(_split_commas),
    Kind("NETWORKS", "addresses or networks such as 127.0.0.1,10.0.0.0/8, separated by commas", _show_list),
]
HeaderNames = Annotated[
    tuple[Annotated[str, AfterValidator(_header_name)], ...],
    NoDecode,
    BeforeValidator(_split_commas),
    Kind("HEADERS", "header names such as X-Tenant, separated by commas", _show_list),
]
HeaderName = Annotated[str, AfterValidator(_header_name), Kind("HEADER", "a header name such as X-Tenant")]
AuthMode = Literal["open", "token", "jwt", "upload-token", "proxy"]
AuthModes = Annotated[
    tuple[AuthMode, ...],
    Field(min_length=1),
    NoDecode,
    BeforeValidator(_split_commas),
    Kind("MODES", f"any of {', '.join(get_args(AuthMode))}, separated by commas", _show_list),
]
Permissions = Annotated[
    tuple[Permission, ...],
    NoDecode,
    BeforeValidator(_split_commas),
    Kind("PERMISSIONS", f"any of {', '.join(Permission)}, separated by commas", _show_list),
]
ExternalProcessors = Annotated[
    tuple[tuple[str, tuple[str, ...]], ...],
    NoDecode,
    BeforeValidator(_split_external),
    Kind(
        "NAME=TYPES", "names with media types, such as ocr=image/* application/pdf, separated by commas", _show_external
    ),
]
Texts = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_split_commas), Kind("TEXTS", "texts, separated by commas", _show_list)
]
KeyTemplate = Annotated[
    str,
    AfterValidator(_key_template),
    Kind("TEMPLATE", "a relative key with {id}, and at most {tenant}, {date} and {filename} beside it"),
]
KeyPrefix = Annotated[str, AfterValidator(_key_prefix), Kind("PREFIX", "a key prefix such as uploads/")]
Place = Annotated[
    str,
    AfterValidator(_listening_place),
    Kind("PLACE", "the path of a socket such as /run/clamav/clamd.ctl, or host:port such as clamd:3310"),
]
CrashPlace = Annotated[
    str,
    AfterValidator(_crash_place),
    Kind(
        "PLACE[:N]",
        f"before-STEP or after-STEP, with :n for the nth passage; STEP is one of {', '.join((*STEPS, *JOB_STEPS))}",
    ),
]
Secret = Annotated[SecretStr, Kind("SECRET", "a text", _show_secret)]
Secrets = Annotated[
    tuple[Annotated[SecretStr, AfterValidator(_token_secret)], ...],
    NoDecode,
    BeforeValidator(_split_commas),
    Kind("SECRETS", "secrets of at least 32 characters, separated by commas", _show_secrets),
]
