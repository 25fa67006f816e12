"""How large the cases are: so that they take seconds, or as large as they were written down."""

from __future__ import annotations

import os

FULL = os.environ.get("TUSGATE_TEST_FULL") == "1"
"""Whether cases that take minutes at their size have it."""
