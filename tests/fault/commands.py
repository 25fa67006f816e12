"""`tusgate` commands beside a running gateway, as an operator gives them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from tests.gateway import TUSGATE

if TYPE_CHECKING:
    from tests.fault.rig import Rig


async def command(rig: Rig, *arguments: str) -> tuple[int, list[dict[str, object]]]:
    """Run `tusgate` with the settings of the first gateway; return its exit code and its lines."""
    process = await asyncio.create_subprocess_exec(
        *TUSGATE,
        *arguments,
        "--json",
        env=rig.gateway.environment,
        cwd=rig.gateway.home,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert b"Traceback" not in err, err.decode()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in out.splitlines()]
