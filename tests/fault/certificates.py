"""Certificates of any age, made by openssl."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

LONG_AGO: Final = "20200101000000Z"
EXPIRED: Final = "20200102000000Z"
VALID: Final = "20990101000000Z"

_CONFIGURATION = """
[ca]
default_ca = only
[only]
database = index
rand_serial = yes
new_certs_dir = .
default_md = sha256
policy = any
x509_extensions = names
unique_subject = no
[any]
commonName = supplied
[names]
subjectAltName = DNS:{name}
"""


class Certificates:
    """Self-signed certificates for one name, all of one key.

    Attributes:
        trusted: a file with all that were issued, for those who have to trust them.
    """

    def __init__(self, home: Path, name: str) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        home.mkdir()
        self._home = home
        self._key = home / "key.pem"
        self.trusted = home / "trusted.pem"
        (home / "configuration").write_text(_CONFIGURATION.format(name=name))
        (home / "index").touch()
        key = ("-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem")
        self._openssl("req", "-new", *key, "-subj", f"/CN={name}", "-out", "request.pem")
        self._issued = {end: self._issue(end) for end in (EXPIRED, VALID)}
        self.trusted.write_text("".join(file.read_text() for file in self._issued.values()))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def show(self, end: str) -> None:
        """Show the certificate that ends then to whoever connects to `context` from now on."""
        self.context.load_cert_chain(self._issued[end], self._key)

    def _issue(self, end: str) -> Path:
        signing = ("ca", "-config", "configuration", "-selfsign", "-keyfile", "key.pem", "-in", "request.pem")
        self._openssl(*signing, "-batch", "-notext", "-startdate", LONG_AGO, "-enddate", end, "-out", f"{end}.pem")
        return self._home / f"{end}.pem"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._home, check=True, capture_output=True)
