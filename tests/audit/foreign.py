"""What others keep in the same bucket: planted at the start of every fault test, untouched at its end (I10)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.servers.s3 import S3Server

FOREIGN_MULTIPART: Final = "somebody/elses-unfinished-upload"
FOREIGN_OBJECTS: Final = {
    key: f"this is {key}".encode()
    for key in ("somebody/elses.bin", ".tusgate/pieces/not-an-upload/1-0", ".tusgate/notes", "tusgate/pieces/1-0")
}
"""Key and content: plain ones, and some whose keys look like ours."""


def plant(server: S3Server, bucket: str) -> None:
    """Put them into `bucket`."""
    client = server.client()
    for key, content in FOREIGN_OBJECTS.items():
        client.put_object(bucket_name=bucket, object_name=key, data=io.BytesIO(content), length=len(content))
    client._create_multipart_upload(bucket_name=bucket, object_name=FOREIGN_MULTIPART, headers={})
