"""The fenced blocks of README.md and docs/api.md, for those who run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
PRINTED = "http://localhost:8080"
"""The address that the README takes for that of the gateway."""


def blocks(info: str, text: str = README) -> list[str]:
    """Return the fenced blocks of a document whose info string is exactly `info`."""
    found = re.findall(rf"^```{re.escape(info)}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, f"there is no block marked {info!r}"
    return found


def reporting(snippet: str, address: str) -> str:
    """Return a snippet that uses `tus`, with `address` for the printed one, as code that tells how it ends.

    It uses `client`, which is tus-js-client, and calls `report({done: url})` or `report({error: message})`.
    """
    return f"""
const tus = {{ ...client, Upload: class extends client.Upload {{
  constructor(file, options) {{
    super(file, {{
      ...options,
      onSuccess: () => report({{ done: this.url }}),
      onError: (error) => report({{ error: error.message }}),
    }});
  }}
}} }};
{snippet.replace(PRINTED, address)}"""
