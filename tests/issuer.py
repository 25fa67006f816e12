"""A real issuer of JWTs for tests: keys, tokens, and a key set served over HTTP that remembers who asked."""

from __future__ import annotations

import base64
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

AUDIENCE = "tusgate"
KEY_ID = "2026-11"


class Issuer:
    """One issuer with an RSA key; its key set is at `jwks_url` while `serving`.

    Attributes:
        keys: the entries of the key set that is served.
        status: that the key set is answered with.
        requests: paths that were asked for.
    """

    def __init__(self, name: str = "https://login.example.com") -> None:
        self.name = name
        self.private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.keys: list[dict[str, Any]] = [public_jwk(self.private, KEY_ID)]
        self.status = 200
        self.requests: list[str] = []
        self.jwks_url = ""

    @property
    def public_pem(self) -> str:
        pem = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return pem.decode()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a good token of Alice; a change to None leaves the claim out."""
        now = int(time.time())
        good = {"iss": self.name, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 600}
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, headers: dict[str, Any] | None = None, **changes: Any) -> str:
        """Return a signed token; see `claims`."""
        return jwt.encode(self.claims(**changes), self.private, "RS256", {"kid": KEY_ID} | (headers or {}))

    def signed(self, header: object, payload: object) -> str:
        """Return parts that no library would put together, with a signature that is right."""
        text = f"{segment(header)}.{segment(payload)}"
        algorithm = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
        return f"{text}.{segment(algorithm.sign(text.encode(), self.private))}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Issuer]:
        """Serve the key set until the block ends."""

        async def answer(request: web.Request) -> web.Response:
            self.requests.append(request.path_qs)
            if request.path != "/keys":
                return web.Response(status=404)
            headers = {"Location": "/elsewhere"} if self.status == 302 else {}
            return web.json_response({"keys": self.keys}, status=self.status, headers=headers)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server:
            self.jwks_url = str(server.make_url("/keys"))
            yield self


def public_jwk(private: Any, key_id: str | None, **members: Any) -> dict[str, Any]:
    """Return the public half of a key as an entry of a key set."""
    algorithms: dict[type, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    (algorithm,) = (found for kind, found in algorithms.items() if isinstance(private, kind))
    entry = algorithm.to_jwk(private.public_key(), as_dict=True)
    return {**entry, **({} if key_id is None else {"kid": key_id}), "use": "sig", **members}


def segment(value: object) -> str:
    """Return one part of a compact JWS: base64url of bytes, of text, or of a value as JSON."""
    raw = (
        value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else json.dumps(value).encode()
    )
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def forged(header: object, payload: object, signature: bytes = b"signature") -> str:
    """Return a compact JWS of parts that no library would put together."""
    return f"{segment(header)}.{segment(payload)}.{segment(signature)}"
