"""A session of HTTP that a test leaves open fails that test.

Nothing else would tell which one it was: Python warns when the session is collected, in whatever test runs then.
"""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

_made: weakref.WeakSet[aiohttp.ClientSession] = weakref.WeakSet()
"""Sessions that the running test has made; those of fixtures of a wider scope are not among them."""


def pytest_configure(config: pytest.Config) -> None:
    initialize = aiohttp.ClientSession.__init__

    @functools.wraps(initialize)
    def noted(session: aiohttp.ClientSession, *args: Any, **named: Any) -> None:
        initialize(session, *args, **named)
        _made.add(session)

    aiohttp.ClientSession.__init__ = noted  # type: ignore[method-assign, assignment]  # there is no hook to be told by


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    _made.clear()
    yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield
    left = sum(not session.closed for session in _made)
    if left:
        pytest.fail(f"{left} sessions of HTTP were left open", pytrace=False)
