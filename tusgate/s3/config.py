"""Where a bucket is and how to get at it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, urlsplit

from tusgate.core.errors import SettingsError
from tusgate.s3.manner import Manner
from tusgate.s3.profiles import PROFILES, Profile
from tusgate.s3.sign import Credentials


@dataclass(frozen=True, slots=True)
class S3Config:
    """One bucket on one S3 server. The secret key and the session token never show in `repr`.

    Attributes:
        endpoint: base URL, `http` or `https`; must not have a path.
        public_endpoint: the same as browsers reach it, for signed URLs; None: they reach `endpoint`.
        prefix: put before every key; usually ends with `/`.
        presign_key: signs the URLs that are handed out, for reading files and for sending parts: whoever sees one
            learns its id, and its rights (GetObject, PutObject) bound what was signed. None: the key that does all
            else.
        profile: what the server can do.
        manner: how objects are stored.
        connections: most connections for parts and objects that are open at once; others wait.
        readers: the same for objects that are read at the pace of clients.
        connect_timeout: seconds for a TCP and TLS handshake.
        read_timeout: seconds without progress after which a request is given up (Complete may take longer).

    Raises:
        SettingsError: the endpoint is not a usable URL.
    """

    endpoint: str
    region: str
    bucket: str
    prefix: str
    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    presign_key: Credentials | None = None
    profile: Profile = PROFILES["generic"]
    manner: Manner = field(default_factory=Manner)
    connections: int = 64
    readers: int = 256
    public_endpoint: str | None = None
    connect_timeout: float = 5.0
    read_timeout: float = 60.0

    def __post_init__(self) -> None:
        url = self._url
        if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/") or url.username:
            # The value is not repeated: it may hold credentials.
            raise SettingsError("S3 endpoint: expected http(s)://host[:port] without path and credentials")

    @property
    def as_browsers_see_it(self) -> S3Config:
        """The same bucket at the address for signed URLs."""
        return self if self.public_endpoint is None else replace(self, endpoint=self.public_endpoint)

    @property
    def _url(self) -> SplitResult:
        return urlsplit(self.endpoint)

    @property
    def credentials(self) -> Credentials:
        """The key that signs requests."""
        return Credentials(self.access_key, self.secret_key, self.session_token)

    @property
    def handed_out(self) -> Credentials:
        """The key that signs URLs for others."""
        return self.presign_key or self.credentials

    @property
    def origin(self) -> str:
        """Scheme and host of object URLs, without a trailing slash."""
        return f"{self._url.scheme}://{self.host}"

    @property
    def host(self) -> str:
        """Host header of requests for objects: without the port when it is the scheme's own."""
        url = self._url
        name = f"[{url.hostname}]" if url.hostname and ":" in url.hostname else f"{url.hostname}"
        default = 443 if url.scheme == "https" else 80
        address = name if url.port in {None, default} else f"{name}:{url.port}"
        return address if self.profile.path_style else f"{self.bucket}.{address}"

    @property
    def root(self) -> str:
        """Path that keys are appended to."""
        return f"/{self.bucket}/" if self.profile.path_style else "/"
