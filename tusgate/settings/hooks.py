"""How hooks are declared: a list of tables in TOML, or the same as JSON in one variable; as sinks are."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter
from pydantic_settings import NoDecode

from tusgate.core.hooks import Moment
from tusgate.settings.declared import Name
from tusgate.settings.kinds import Count, Duration, Kind
from tusgate.settings.sinks import Reached, declared, show

SETTING: Final = "TUSGATE_HOOKS"
_NOT_FORWARDED: Final = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that belong to a connection or a body, and mean nothing elsewhere."""


def _forwardable(name: str) -> str:
    if name.lower() in _NOT_FORWARDED:
        raise ValueError("expected headers that can be forwarded")
    return name


HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"), AfterValidator(_forwardable)]


class _Declared(BaseModel):
    """What all kinds of hooks have. See docs/hooks.md."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: Name
    moments: Annotated[tuple[Moment, ...], Field(min_length=1)] = (Moment.CREATE,)
    tenants: tuple[str, ...] = ()
    timeout: Duration = Field(15.0, gt=0, le=60.0)
    failure: Literal["closed", "open"] = "closed"


class HttpHookDeclared(_Declared, Reached):
    """A hook server as tusd knows them."""

    setting: ClassVar[str] = SETTING

    type: Literal["http"]
    forward_headers: tuple[HeaderName, ...] = ()
    retries: Count = Field(3, ge=0, le=100)
    backoff: Duration = Field(1.0, gt=0, le=60.0)


class PluginDeclared(_Declared):
    """Python code, by its entry point."""

    type: Literal["plugin"]
    plugin: str
    options: dict[str, Any] = Field(default_factory=dict)


AnyHook = HttpHookDeclared | PluginDeclared
_LIST: Final[TypeAdapter[tuple[AnyHook, ...]]] = TypeAdapter(
    tuple[Annotated[AnyHook, Field(discriminator="type")], ...]
)


def _declared(value: object) -> tuple[AnyHook, ...]:
    return declared(value, _LIST, AnyHook, SETTING)


HookList = Annotated[
    tuple[AnyHook, ...],
    NoDecode,
    BeforeValidator(_declared),
    Kind("JSON", "a list of hooks, each with a name and a type, see docs/hooks.md", show),
]
