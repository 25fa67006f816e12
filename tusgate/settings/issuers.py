"""The setting JWT_ISSUERS: several issuers with some members each, as JSON in the environment or tables in TOML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import NoDecode

from tusgate.core.access import TENANT, UPLOAD_AUDIENCE, USER, Permission
from tusgate.core.errors import SettingsError
from tusgate.settings.kinds import Duration, Kind, WebUrl

Asymmetric = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
Symmetric = Literal["HS256", "HS384", "HS512"]


class JwtIssuer(BaseModel):
    """One issuer of JWTs. The members are those of `identity.IssuerConfig`; `key_file` holds `key`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    issuer: str = Field(min_length=1)
    audience: str = Field(min_length=1)
    jwks_url: WebUrl | None = None
    key: SecretStr | None = None
    key_file: Path | None = None
    algorithm: Asymmetric | Symmetric | None = None
    leeway: Annotated[Duration, Field(ge=0, le=300)] = 30.0
    tenant: str | None = Field(default=None, pattern=TENANT.pattern.join(("^", "$")))
    tenant_claim: str | None = None
    owner_claim: str = Field(default="sub", min_length=1)
    owner_prefix: str | None = None
    permissions: frozenset[Permission] | None = None
    permissions_claim: str | None = None
    permission_map: dict[str, frozenset[Permission]] | None = None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Raise ValueError when members contradict each other, or when a token of one kind would pass as another."""
        if [self.jwks_url, self.key, self.key_file].count(None) != 2:
            raise ValueError("expected one of jwks_url, key and key_file")
        if self.jwks_url is None and self.algorithm is None:
            raise ValueError("algorithm: expected the one of the key")
        if self.jwks_url is not None and (self.algorithm or "").startswith("HS"):
            raise ValueError("algorithm: expected one with public keys, as anybody can fetch what is at jwks_url")
        if self.audience == UPLOAD_AUDIENCE:
            raise ValueError(f"audience: expected another one, {UPLOAD_AUDIENCE} is for upload tokens")
        if self.tenant is not None and self.tenant_claim is not None:
            raise ValueError("expected one of tenant and tenant_claim")
        if self.permissions is not None and self.permissions_claim is not None:
            raise ValueError("expected one of permissions and permissions_claim")
        if self.permission_map is not None and self.permissions_claim is None:
            raise ValueError("permissions_claim: expected the claim that permission_map is about")
        return self

    @property
    def granted(self) -> frozenset[Permission]:
        """What everybody may do, where no claim says it."""
        return USER if self.permissions is None else self.permissions

    @property
    def grants(self) -> dict[str, frozenset[Permission]]:
        """What each value of the claim gives; by default the permission of that name."""
        by_name = {str(permission): frozenset({permission}) for permission in Permission}
        return by_name if self.permission_map is None else self.permission_map

    def key_text(self) -> str | None:
        """Return the key, read from its file if it is in one. Raises SettingsError for an unreadable file."""
        if self.key_file is None:
            return None if self.key is None else self.key.get_secret_value()
        try:
            return self.key_file.expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"TUSGATE_JWT_ISSUERS: expected a readable key_file, got {self.key_file}") from None


def _issuers(value: object) -> object:
    """Return the issuers that a text of JSON, or a list, describes.

    Raises:
        SettingsError: names the issuer and the member, and shows no value: one of them may be a key.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else []
        except ValueError:
            raise SettingsError("TUSGATE_JWT_ISSUERS: expected JSON, a list of objects") from None
    if not isinstance(value, list | tuple):
        raise SettingsError("TUSGATE_JWT_ISSUERS: expected a list of objects")
    issuers = [_issuer(number, entry) for number, entry in enumerate(value, 1)]
    _check_apart(issuers)
    return tuple(issuers)


def _issuer(number: int, entry: object) -> JwtIssuer:
    try:
        return JwtIssuer.model_validate(entry)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        member = ".".join(map(str, first["loc"]))
        what = f"{member}: {first['msg']}" if member else first["msg"]
        raise SettingsError(f"TUSGATE_JWT_ISSUERS: issuer {number}: {what}") from None


def _check_apart(issuers: list[JwtIssuer]) -> None:
    """Raise SettingsError where two issuers would mean different people by one owner, unless somebody wants that."""
    names = [issuer.issuer for issuer in issuers]
    if len(set(names)) != len(names):
        raise SettingsError("TUSGATE_JWT_ISSUERS: expected each issuer once")
    shared = [issuer for issuer in issuers if issuer.owner_prefix is None]
    tenants = [issuer.tenant for issuer in shared if issuer.tenant_claim is None]
    if len(issuers) > 1 and (len(set(tenants)) != len(shared)):
        raise SettingsError(
            "TUSGATE_JWT_ISSUERS: expected an owner_prefix in each issuer, or a tenant of its own: the same sub of two"
            " issuers would be one owner"
        )


def _show(issuers: tuple[JwtIssuer, ...]) -> str:
    return ",".join(issuer.issuer for issuer in issuers) or "none"


JwtIssuers = Annotated[
    tuple[JwtIssuer, ...],
    NoDecode,
    BeforeValidator(_issuers),
    Kind("JSON", "a JSON list of issuers", _show),
]
