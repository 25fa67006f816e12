"""The tenants file: who may use the gateway, where their files go, and how much they may have.

    unknown_tenants = "refuse"

    [routes.acme-eu]            a bucket, or a part of one
    bucket = "acme-uploads"

    [tenants.acme]
    route = "acme-eu"
    quota_bytes = "2TiB"

Rule 1: `Route` and `TenantTable` are the whole declaration; what is written in a table is checked by them alone.
Rule 2: routes have names of their own, because uploads remember them: see `service/stores.py`.
Rule 3: a secret stands in a file, or in the environment, never in this one; and it is never shown.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from tusgate.core.errors import SettingsError
from tusgate.core.quota import Quota
from tusgate.core.tenant import Tenant
from tusgate.settings.kinds import (
    Bucket,
    Count,
    File,
    KeyPrefix,
    KeyTemplate,
    Kind,
    OptionalSize,
    Rate,
    ServerUrl,
    Text,
)
from tusgate.settings.model import S3Profile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tusgate.settings.model import Settings

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
DEFAULT_TENANT: Final = "default"
_KEY_BYTES: Final = 32
"""Length of an SSE-C key: AES-256."""
_PAIRS: Final = (("access_key", "secret_key"), ("presign_access_key", "presign_secret_key"))
"""Keys of a route, each of no use without the other one of its pair."""
_TAG: Final = re.compile(r"[\w .:/=+@-]*")
"""What S3 allows in tags."""


def _media_pattern(value: str) -> str:
    if not re.fullmatch(r"(\*|[a-z0-9.+-]+)/(\*|[a-z0-9.+-]+)", value.lower(), re.ASCII):
        raise ValueError
    return value.lower()


def _printable(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError
    return value


MediaPattern = Annotated[str, AfterValidator(_media_pattern), Kind("TYPE", "media types such as image/* or text/csv")]
Header = Annotated[str, AfterValidator(_printable), Kind("TEXT", "a line of ASCII text")]
PositiveRate = Annotated[float, Field(gt=0, allow_inf_nan=False), Kind("NUMBER", "a number above 0")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Route(_Table):
    """`[routes.<name>]`: a bucket or a part of one, and how objects are stored there.

    What is not said is as in the plain settings. Keys are given by a file (`*_file`) or by the name of an environment
    variable (`*_env`).
    """

    bucket: Bucket
    prefix: KeyPrefix = ""
    endpoint: ServerUrl | None = None
    region: Text | None = None
    profile: S3Profile | None = None
    access_key_file: File | None = None
    access_key_env: Text | None = None
    secret_key_file: File | None = None
    secret_key_env: Text | None = None
    public_endpoint: ServerUrl | None = None
    presign_access_key_file: File | None = None
    presign_access_key_env: Text | None = None
    presign_secret_key_file: File | None = None
    presign_secret_key_env: Text | None = None
    object_key: KeyTemplate | None = None
    storage_class: Header | None = None
    sse: Literal["none", "s3", "kms", "customer"] = "none"
    kms_key: Header | None = None
    customer_key_file: File | None = None
    cache_control: Header | None = None
    content_disposition: Literal["attachment", "inline"] | None = None
    tags: dict[str, str] = Field(default_factory=dict, max_length=10)

    @model_validator(mode="after")
    def _check_together(self) -> Route:
        """Raise SettingsError when fields contradict each other; the message begins with the field."""
        if self.kms_key is not None and self.sse != "kms":
            raise SettingsError('kms_key: expected together with sse = "kms" only')
        if (self.sse == "customer") != (self.customer_key_file is not None):
            raise SettingsError('customer_key_file: expected together with sse = "customer", and only then')
        if self.storage_class in {"GLACIER", "DEEP_ARCHIVE"}:
            raise SettingsError(
                "storage_class: expected one that can be read at once, because finished objects are looked at;"
                " archive them by a lifecycle rule of the bucket"
            )
        if any(not _TAG.fullmatch(text) for pair in self.tags.items() for text in pair) or "" in self.tags:
            raise SettingsError("tags: expected letters, digits, blanks and + - = . _ : / @")
        for access_key, secret_key in _PAIRS:
            for name in (access_key, secret_key):
                if getattr(self, f"{name}_file") is not None and getattr(self, f"{name}_env") is not None:
                    raise SettingsError(f"{name}_file: expected either it or {name}_env, not both")
            if self._gives(access_key) != self._gives(secret_key):
                raise SettingsError(f"{secret_key}_file: expected together with {access_key}_file (or *_env)")
        return self

    def _gives(self, name: str) -> bool:
        return getattr(self, f"{name}_file") is not None or getattr(self, f"{name}_env") is not None


class TenantTable(_Table):
    """`[tenants.<name>]`: what one tenant may do. What is not said is not limited, or as in the plain settings."""

    route: Text | None = None
    object_key: KeyTemplate | None = None
    max_size: OptionalSize = Field(default=None, gt=0)
    types: tuple[MediaPattern, ...] = ()
    check_content: bool = False
    coded_types: tuple[MediaPattern, ...] | None = None
    quota_bytes: OptionalSize = Field(default=None, ge=0)
    quota_files: Count | None = Field(default=None, ge=0)
    max_unfinished: Count | None = Field(default=None, ge=0)
    requests_per_second: PositiveRate | None = None
    bandwidth: Rate | None = Field(default=None, gt=0)
    processors: tuple[Text, ...] | None = None
    publish_when_clean: tuple[Text, ...] | None = None
    dedup: Literal["on", "off"] | None = None
    instant_upload: Literal["on", "off"] | None = None

    def tenant(self, name: str, routes: Mapping[str, Route]) -> Tenant:
        """Return the tenant of this name."""
        quota = Quota(self.quota_bytes, self.quota_files, self.max_unfinished)
        route = routes.get(self.route) if self.route is not None else None
        return Tenant(
            name=name,
            route=self.route,
            key_template=self.object_key or (None if route is None else route.object_key),
            max_size=self.max_size,
            types=self.types,
            checks_content=self.check_content,
            coded_types=self.coded_types,
            quota=None if quota == Quota() else quota,
            request_rate=self.requests_per_second,
            bandwidth=self.bandwidth,
            processors=self.processors,
            publish_when_clean=self.publish_when_clean,
            dedup=None if self.dedup is None else self.dedup == "on",
            instant=None if self.instant_upload is None else self.instant_upload == "on",
        )


class _File(_Table):
    unknown_tenants: Literal["refuse", "default"] = "refuse"
    routes: dict[str, Route] = Field(default_factory=dict)
    tenants: dict[str, TenantTable] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RouteKeys:
    """The secrets of one route, read. None: those of the plain settings, or none at all.

    Attributes:
        access_key, secret_key: do all but what follows.
        presign_access_key, presign_secret_key: sign the URLs that are handed out.
        customer_key: an SSE-C key in base64.
    """

    access_key: SecretStr | None
    secret_key: SecretStr | None
    presign_access_key: SecretStr | None
    presign_secret_key: SecretStr | None
    customer_key: SecretStr | None


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What the tenants file says.

    Attributes:
        tenants: all that are declared; None: there is no file, and everybody is welcome.
        others: the rules for tenants that are not declared; None: they are refused.
        routes: by name.
        keys: the secrets of each route.
    """

    tenants: tuple[Tenant, ...] | None = None
    others: Tenant | None = None
    routes: tuple[tuple[str, Route], ...] = ()
    keys: tuple[tuple[str, RouteKeys], ...] = ()

    @property
    def places(self) -> dict[str, str]:
        """Where each route leads: what must not change while something lies there."""
        return {name: f"{route.bucket}/{route.prefix}" for name, route in self.routes}


def load_tenancy(settings: Settings) -> Tenancy:
    """Read TENANTS_FILE.

    Raises:
        SettingsError: one line that names file, table and field, and what was expected.
    """
    path = settings.tenants_file
    if path is None:
        return Tenancy()
    file = _parsed(path)
    for kind, table in (("routes", file.routes), ("tenants", file.tenants)):
        for name in table:
            if not _NAME.fullmatch(name):
                raise SettingsError(f"{path}: {kind}.{name}: expected a name of letters, digits, dots and dashes")
    for name, tenant in file.tenants.items():
        if tenant.route is not None and tenant.route not in file.routes:
            raise SettingsError(f"{path}: tenants.{name}.route: expected the name of a table [routes.{tenant.route}]")
    _check_servers(path, settings, file.routes)
    _check_places(path, settings, file.routes)
    declared = {DEFAULT_TENANT: TenantTable(), **file.tenants}
    tenants = tuple(table.tenant(name, file.routes) for name, table in declared.items())
    default = next(tenant for tenant in tenants if tenant.name == DEFAULT_TENANT)
    return Tenancy(
        tenants,
        default if file.unknown_tenants == "default" else None,
        tuple(file.routes.items()),
        tuple((name, _keys(f"{path}: routes.{name}", route)) for name, route in file.routes.items()),
    )


def _parsed(path: Path) -> _File:
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: expected a readable TOML file ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise SettingsError(f"{path}: {_where(first['loc'])}: {_expectation(first['loc'], first['msg'])}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: expected a TOML file, got an error: {error}") from None
    except SettingsError as error:
        raise SettingsError(f"{path}: {_table_of(path, error)}{error}") from None


def _table_of(path: Path, error: SettingsError) -> str:
    """Return which route an error is about that came from a check of one route as a whole."""
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).get("routes", {}).items():
        try:
            Route.model_validate(table)
        except SettingsError as found:
            if str(found) == str(error):
                return f"routes.{name}."
        except ValidationError:
            continue
    return ""


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in location if not isinstance(step, int))


def _expectation(location: tuple[int | str, ...], message: str) -> str:
    """Return what goes after the name of a field."""
    tables: dict[object, type[BaseModel]] = {"routes": Route, "tenants": TenantTable}
    model = tables.get(location[0], _File) if len(location) > 1 else _File
    names = [step for step in location if isinstance(step, str)]
    field = model.model_fields.get(names[2] if len(names) > 2 else names[-1])
    if field is None:
        return "expected one of " + ", ".join(model.model_fields)
    kinds = [item for item in _all_metadata(field.annotation, field.metadata) if isinstance(item, Kind)]
    return f"expected {kinds[0].expected}" if kinds and "than" not in message else message.lower()


def _all_metadata(annotation: Any, outer: list[Any]) -> list[Any]:
    members = getattr(annotation, "__args__", ())
    nested = [item for member in members for item in _all_metadata(member, [])]
    return [*outer, *getattr(annotation, "__metadata__", ()), *nested]


def _check_servers(path: Path, settings: Settings, routes: Mapping[str, Route]) -> None:
    for name, route in routes.items():
        if route.endpoint is None and settings.s3_endpoint is None:
            raise SettingsError(
                f"{path}: routes.{name}.endpoint: expected a value, because TUSGATE_S3_ENDPOINT has none"
            )
        has_keys = route.access_key_file is not None or route.access_key_env is not None
        if not has_keys and settings.s3_access_key is None:
            raise SettingsError(
                f"{path}: routes.{name}.access_key_file: expected a value, because there is no other key"
            )
        if route.sse == "customer" and urlsplit(route.endpoint or settings.s3_endpoint or "").scheme != "https":
            raise SettingsError(f"{path}: routes.{name}.sse: expected an https endpoint, because the key goes there")


def _check_places(path: Path, settings: Settings, routes: Mapping[str, Route]) -> None:
    """Refuse routes that lead into one another: what one takes for unknown may be an object of the other."""
    places = [(f"routes.{name}", route.endpoint or settings.s3_endpoint, route) for name, route in routes.items()]
    taken = [("TUSGATE_S3_PREFIX", settings.s3_endpoint, settings.s3_bucket, settings.s3_prefix)]
    for name, endpoint, route in places:
        for other, other_endpoint, bucket, prefix in taken:
            overlap = route.prefix.startswith(prefix) or prefix.startswith(route.prefix)
            if (endpoint, route.bucket) == (other_endpoint, bucket) and overlap:
                raise SettingsError(f"{path}: {name}.prefix: expected one that does not overlap with that of {other}")
        taken.append((name, endpoint, route.bucket, route.prefix))


def _keys(place: str, route: Route) -> RouteKeys:
    return RouteKeys(
        _secret(place, "access_key", route.access_key_file, route.access_key_env),
        _secret(place, "secret_key", route.secret_key_file, route.secret_key_env),
        _secret(place, "presign_access_key", route.presign_access_key_file, route.presign_access_key_env),
        _secret(place, "presign_secret_key", route.presign_secret_key_file, route.presign_secret_key_env),
        _customer_key(place, route.customer_key_file),
    )


def _secret(place: str, name: str, path: Path | None, variable: str | None) -> SecretStr | None:
    if path is not None:
        return SecretStr(_content(f"{place}.{name}_file", path).decode("utf-8", "replace").strip())
    if variable is None:
        return None
    value = os.environ.get(variable)
    if not value:
        raise SettingsError(f"{place}.{name}_env: expected a variable that is set, {variable} is not")
    return SecretStr(value)


def _customer_key(place: str, path: Path | None) -> SecretStr | None:
    """Return a key of 32 bytes in base64; the file has it as it is, or in base64."""
    if path is None:
        return None
    raw = _content(f"{place}.customer_key_file", path)
    if len(raw) != _KEY_BYTES:
        try:
            raw = base64.b64decode(raw.strip(), validate=True)
        except binascii.Error:
            raw = b""
    if len(raw) != _KEY_BYTES:
        raise SettingsError(f"{place}.customer_key_file: expected {_KEY_BYTES} bytes, as they are or in base64")
    return SecretStr(base64.b64encode(raw).decode("ascii"))


def _content(place: str, path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise SettingsError(f"{place}: expected a readable file, got {path} ({error.strerror})") from None


def shown_tables(settings: Settings) -> list[tuple[str, str]]:
    """Return what the file says, as `tenants.acme.quota_bytes` and its value. There are no secrets in it."""
    if settings.tenants_file is None:
        return []
    file = _parsed(settings.tenants_file)
    tables: dict[str, _Table] = {f"routes.{name}": route for name, route in file.routes.items()}
    tables |= {f"tenants.{name}": tenant for name, tenant in file.tenants.items()}
    rows = [
        (f"{place}.{name}", _shown(table, name)) for place, table in tables.items() for name in table.model_fields_set
    ]
    return [("unknown_tenants", file.unknown_tenants), *sorted(rows)]


def _shown(table: _Table, name: str) -> str:
    value, field = getattr(table, name), type(table).model_fields[name]
    if isinstance(value, tuple | dict) or value is None:
        return ",".join(f"{each}={value[each]}" if isinstance(value, dict) else each for each in value or ()) or "none"
    kinds = [item for item in _all_metadata(field.annotation, field.metadata) if isinstance(item, Kind)]
    return kinds[0].show(value) if kinds else str(value)
