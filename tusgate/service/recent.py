"""Uploads as this process saw them last, so that a PATCH after its POST needs no look into the database first.

Only a hint: another process may have moved the upload on. The claim compares epoch, offset and state with it, so a
stale hint costs one more look and changes nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from tusgate.core.model import State

if TYPE_CHECKING:
    from tusgate.core.model import Scope, Upload, UploadId

MOST = 1024
"""Uploads that are remembered at once."""
LARGEST_METADATA = 1024
"""Bytes; uploads with more are not remembered, so that all hints together stay within a few MiB."""


class RecentUploads:
    """The latest uploads of this process that can still take bytes; each is handed out once."""

    def __init__(self) -> None:
        self._uploads: OrderedDict[UploadId, Upload] = OrderedDict()

    def remember(self, upload: Upload) -> None:
        """Keep `upload` as the next hint for its id."""
        if upload.state is not State.UPLOADING or len(upload.metadata or b"") > LARGEST_METADATA:
            return
        self._uploads[upload.id] = upload
        if len(self._uploads) > MOST:
            self._uploads.popitem(last=False)

    def take(self, scope: Scope, upload_id: UploadId) -> Upload | None:
        """Return the upload if it was remembered and belongs to `scope`; it is forgotten by that."""
        upload = self._uploads.get(upload_id)
        if upload is None or upload.scope != scope:
            return None
        return self._uploads.pop(upload_id)
