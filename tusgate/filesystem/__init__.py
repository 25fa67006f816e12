"""The object store in a local directory: for one machine, and for tests without S3."""

from tusgate.filesystem.store import DirectoryStore

__all__ = ["DirectoryStore"]
