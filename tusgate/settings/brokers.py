"""How brokers are declared as sinks. See docs/events.md."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, model_validator

from tusgate.settings.declared import Declared
from tusgate.settings.kinds import Count, Duration, File  # noqa: TC001 - pydantic reads the annotations

_PLACEHOLDERS: Final = re.compile(r"\{(?:type|tenant)\}")
_HOST_AND_PORT: Final = re.compile(r"(?:[^\s/@:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)


def _server_of(*schemes: str) -> AfterValidator:
    """Return a check of URLs; they have no password: that stands in a file."""

    def check(value: str) -> str:
        parts = urlsplit(value)
        if parts.username is not None or parts.password is not None:
            raise ValueError("expected a URL without a user and a password: see user and password_file")
        if parts.scheme not in schemes or not parts.hostname or parts.fragment or parts.query:
            raise ValueError(f"expected {' or '.join(f'{scheme}://' for scheme in schemes)} and a host")
        assert parts.port is None or parts.port  # a port that is no number raises ValueError
        return value

    return AfterValidator(check)


def _template(value: str) -> str:
    """Return a name with places for the type and the tenant of an event."""
    rest = _PLACEHOLDERS.sub("", value)
    if not value or not value.isprintable() or " " in value or "{" in rest or "}" in rest:
        raise ValueError("expected a name without blanks, in which only {type} and {tenant} may stand in braces")
    return value


def _host_and_port(value: str) -> str:
    if not _HOST_AND_PORT.fullmatch(value):
        raise ValueError("expected host:port")
    return value


Template = Annotated[str, AfterValidator(_template)]
Name = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\s]+$")]


class BrokerDeclared(Declared):
    """What all brokers have.

    Attributes:
        timeout: seconds for one try, connecting included.
        user, password_file: who we are, if the broker asks.
        ca_file: whose certificates are believed; None: those of the system.
        cert_file, key_file: the certificate that we show.
    """

    timeout: Duration = Field(15.0, gt=0, le=30.0)
    user: str = ""
    password_file: File | None = None
    ca_file: File | None = None
    cert_file: File | None = None
    key_file: File | None = None

    @model_validator(mode="after")
    def _user_has_password(self) -> Self:
        if bool(self.user) != (self.password_file is not None):
            raise ValueError("expected user and password_file, or neither")
        return self

    @model_validator(mode="after")
    def _certificates_fit(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("expected cert_file and key_file, or neither")
        if (self.ca_file or self.cert_file) and not self.encrypted:
            raise ValueError("expected ca_file and cert_file only where the connection is encrypted")
        return self

    @property
    def encrypted(self) -> bool:
        """Tell whether TLS is spoken."""
        raise NotImplementedError

    @property
    def longest(self) -> float:
        """Return somewhat more than its own time-out."""
        return self.timeout + 5.0

    def check(self) -> None:
        """See `Declared.check`."""
        self.password()
        for key, path in (("ca_file", self.ca_file), ("cert_file", self.cert_file), ("key_file", self.key_file)):
            if path is not None:
                self.secret_in(path, key)

    def password(self) -> str:
        """Return the password, empty when there is none. Raises SettingsError."""
        return "" if self.password_file is None else self.secret_in(self.password_file, "password_file")


class NatsDeclared(BrokerDeclared):
    """A stream of NATS JetStream."""

    type: Literal["nats"]
    servers: Annotated[tuple[Annotated[str, _server_of("nats", "tls")], ...], Field(min_length=1)]
    subject: Template = "tusgate.{tenant}.{type}"
    stream: Name | None = None
    token_file: File | None = None
    credentials_file: File | None = None

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if sum(map(bool, (self.user, self.token_file, self.credentials_file))) > 1:
            raise ValueError("expected one of user, token_file and credentials_file")
        if len({urlsplit(server).scheme for server in self.servers}) > 1:
            raise ValueError("expected servers with one scheme")
        return self

    @property
    def encrypted(self) -> bool:
        """See `BrokerDeclared.encrypted`."""
        return self.servers[0].startswith("tls:")

    def check(self) -> None:
        """See `Declared.check`."""
        super().check()
        self.token()
        if self.credentials_file is not None:
            self.secret_in(self.credentials_file, "credentials_file")

    def token(self) -> str:
        """Return the token, empty when there is none. Raises SettingsError."""
        return "" if self.token_file is None else self.secret_in(self.token_file, "token_file")


class RabbitDeclared(BrokerDeclared):
    """An exchange of RabbitMQ."""

    type: Literal["rabbitmq"]
    url: Annotated[str, _server_of("amqp", "amqps")]
    exchange: Annotated[str, Field(max_length=255)]
    routing_key: Template = "{type}"

    @property
    def encrypted(self) -> bool:
        """See `BrokerDeclared.encrypted`."""
        return self.url.startswith("amqps:")

    @property
    def virtual_host(self) -> str:
        """Return the virtual host: the path of the URL, as RabbitMQ's own clients read it."""
        return unquote(urlsplit(self.url).path.removeprefix("/")) or "/"


class RedisDeclared(BrokerDeclared):
    """A stream of Redis. A password without a user is that of the default user."""

    type: Literal["redis"]
    url: Annotated[str, _server_of("redis", "rediss")]
    user: str = "default"
    stream: Template = "tusgate"
    maxlen: Count | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _user_has_password(self) -> Self:
        if self.user != "default" and self.password_file is None:
            raise ValueError("expected user and password_file, or neither")
        return self

    @model_validator(mode="after")
    def _has_database(self) -> Self:
        if not self.database.isdecimal() or not self.database.isascii():
            raise ValueError("expected the number of a database as the path of url, or none")
        return self

    @property
    def encrypted(self) -> bool:
        """See `BrokerDeclared.encrypted`."""
        return self.url.startswith("rediss:")

    @property
    def database(self) -> str:
        """Return the number of the database."""
        return urlsplit(self.url).path.removeprefix("/") or "0"


class KafkaDeclared(BrokerDeclared):
    """A topic of Kafka."""

    type: Literal["kafka"]
    servers: Annotated[tuple[Annotated[str, AfterValidator(_host_and_port)], ...], Field(min_length=1)]
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    tls: bool = False
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"

    @property
    def encrypted(self) -> bool:
        """See `BrokerDeclared.encrypted`."""
        return self.tls


class _AwsDeclared(Declared):
    """What queues and topics have. Without keys, they are found as AWS's own tools find them."""

    timeout: Duration = Field(15.0, gt=0, le=30.0)
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    endpoint: Annotated[str, _server_of("http", "https")] | None = None
    access_key: Annotated[str, Field(min_length=1)] | None = None
    secret_key_file: File | None = None
    ca_file: File | None = None

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if (self.access_key is None) != (self.secret_key_file is None):
            raise ValueError("expected access_key and secret_key_file, or neither")
        return self

    @property
    def longest(self) -> float:
        """Return somewhat more than its own time-out."""
        return self.timeout + 5.0

    def check(self) -> None:
        """See `Declared.check`."""
        self.secret_key()
        if self.ca_file is not None:
            self.secret_in(self.ca_file, "ca_file")

    def secret_key(self) -> str | None:
        """Return the secret key, None when it is found elsewhere. Raises SettingsError."""
        return None if self.secret_key_file is None else self.secret_in(self.secret_key_file, "secret_key_file")


class SqsDeclared(_AwsDeclared):
    """A queue of Amazon SQS."""

    type: Literal["sqs"]
    queue_url: Annotated[str, _server_of("http", "https")]


class SnsDeclared(_AwsDeclared):
    """A topic of Amazon SNS."""

    type: Literal["sns"]
    topic_arn: Annotated[str, Field(pattern=r"^arn:[^\s:]+:sns:[^\s:]+:[0-9]+:[^\s:]+$")]


AnyBroker = NatsDeclared | RabbitDeclared | RedisDeclared | KafkaDeclared | SqsDeclared | SnsDeclared
