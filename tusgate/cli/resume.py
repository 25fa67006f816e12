"""Where unfinished uploads of this user are remembered, so that the same command goes on after Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What makes a file the same file: a changed size or time makes it another one."""

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """Return the fingerprint of the file at `path` as it is now. Raises OSError."""
        found = path.stat()
        return cls(str(path.resolve()), found.st_size, found.st_mtime_ns)


class ResumeStore:
    """Upload URLs by endpoint and file, one small file each, so that parallel commands do not collide.

    An upload URL lets anybody who knows it write to the upload: the files are for their owner only.
    """

    def __init__(self, endpoint: str, directory: Path | None = None) -> None:
        self._endpoint = endpoint
        self._directory = directory or platformdirs.user_state_path("tusgate") / "uploads"

    def url_of(self, file: Fingerprint) -> str | None:
        """Return the URL of the unfinished upload of exactly this `file`, if one is known."""
        found = self._read(file)
        return found[1] if found is not None and found[0] == file else None

    def url_of_earlier(self, file: Fingerprint) -> str | None:
        """Return the URL of the unfinished upload of what was at this path before it changed, if one is known."""
        found = self._read(file)
        return found[1] if found is not None and found[0] != file else None

    def _read(self, file: Fingerprint) -> tuple[Fingerprint, str] | None:
        try:
            entry = json.loads(self._entry(file).read_text(encoding="utf-8"))
            return Fingerprint(**entry["file"]), str(entry["url"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def remember(self, file: Fingerprint, url: str) -> None:
        """Write down that `file` is being uploaded to `url`; replaces what was known about its path."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        entry = self._entry(file)
        fresh = entry.with_suffix(f".{os.getpid()}")
        text = json.dumps({"endpoint": self._endpoint, "file": asdict(file), "url": url})
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
        fresh.replace(entry)

    def forget(self, file: Fingerprint) -> None:
        """Drop what is known about the path of `file`."""
        self._entry(file).unlink(missing_ok=True)

    def _entry(self, file: Fingerprint) -> Path:
        name = hashlib.sha256(f"{self._endpoint}\0{file.path}".encode()).hexdigest()
        return self._directory / f"{name}.json"
