"""A gateway that asks who one is, and the credentials of those who know it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jwt

from tests.issuer import AUDIENCE, Issuer
from tests.wire.rig import Clock, Rig, running
from tusgate.core.access import USER
from tusgate.core.model import Scope
from tusgate.identity.authority import CombinedAuthority
from tusgate.identity.config import IssuerConfig, ProxyConfig
from tusgate.identity.issuers import Issuers
from tusgate.identity.proxies import VouchedUsers
from tusgate.identity.static_tokens import BELIEVED_FOR, StaticTokens, make_token
from tusgate.identity.upload_tokens import UploadTokens

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.wire.client import Answer
    from tusgate.core.access import ApiToken, Permission
    from tusgate.ports import SurveyedDatabase, SurveyedStore
    from tusgate.service.feed import FeedRules
    from tusgate.web.config import WebConfig

BACKEND_KEY = "the key that the backend shares with us"
ALICE, BOB, EVE = Scope("acme", "alice"), Scope("acme", "bob"), Scope("other", "alice")
ISSUER = Issuer()
Headers = dict[str, str]


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


def upload_token(**changes: Any) -> Headers:
    """Return the credentials of an upload token for Alice; a change to None leaves the claim out."""
    now = int(time.time())
    good = {"aud": "tusgate-upload", "sub": "alice", "tenant": "acme", "iat": now, "exp": now + 600, "jti": "one"}
    claims = {name: value for name, value in (good | changes).items() if value is not None}
    return bearer(jwt.encode(claims, BACKEND_KEY, "HS256"))


def user_token(**changes: Any) -> Headers:
    """Return the credentials of Alice from the issuer."""
    return bearer(ISSUER.token(**{"tenant": "acme"} | changes))


@dataclass
class Guarded:
    """A running gateway with identity.

    Attributes:
        now: the time by which static tokens are remembered.
    """

    rig: Rig
    now: Clock = field(default_factory=lambda: Clock(time.time()))

    @property
    def client(self) -> Any:
        return self.rig.client

    async def static_token(
        self, scope: Scope = ALICE, permissions: frozenset[Permission] = USER
    ) -> tuple[Headers, ApiToken]:
        """Return the credentials of a new static token, and what the database knows of it."""
        token, new = make_token(scope, permissions, "", None)
        return bearer(token), await self.rig.database.create_token(new)

    async def who(self, scope: Scope = ALICE, permissions: frozenset[Permission] = USER) -> Headers:
        headers, _ = await self.static_token(scope, permissions)
        return headers

    async def revoke(self, token: ApiToken) -> None:
        """Revoke, and let the time pass within which that may go unnoticed."""
        await self.rig.database.revoke_token(token.id)
        self.now.now += BELIEVED_FOR

    async def ask(self, method: str, path: str, fields: Headers, body: bytes = b"x") -> Answer:
        """Send a request as it is and return what comes back, whatever protocol answers."""
        async with self.rig.client.connect() as connection:
            connection.send_head(method, path, {**fields, "Content-Length": str(len(body))})
            connection.up.write(body)
            return await connection.answer(to_head=method == "HEAD")

    async def create(self, who: Headers, length: int | None = 10, **more: str) -> str:
        path: str = await self.client.create(length, **more, **who)
        return path


@asynccontextmanager
async def guarded(
    home: Path,
    config: WebConfig | None = None,
    max_size: int | None = None,
    listening: FeedRules | None = None,
    store: SurveyedStore | None = None,
    **more: Any,
) -> AsyncIterator[Guarded]:
    """Serve with static tokens, upload tokens, JWTs and a proxy that names users, until the block ends."""
    now = Clock(time.time())
    pinned = IssuerConfig(
        issuer=ISSUER.name, audience=AUDIENCE, key=ISSUER.public_pem, algorithm="RS256", tenant_claim="tenant"
    )

    def identity(database: SurveyedDatabase) -> CombinedAuthority:
        verifiers = (
            StaticTokens(database, now),
            UploadTokens([BACKEND_KEY], time.time),
            Issuers([pinned], time.time, time.monotonic),
            VouchedUsers(ProxyConfig()),
        )
        return CombinedAuthority(verifiers, takes_bearers=True, open_to_all=False)

    async with running(home, config, max_size, identity, listening=listening, store=store, **more) as rig:
        yield Guarded(rig, now)
