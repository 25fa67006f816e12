"""The service against a naive model: anything that clients, operators, links and servers may do, in any order.

What must hold is in `truth.py` and `fleet.py`, by the numbers of the invariants. Each run tries other histories; there
are more of them with TUSGATE_TEST_MODEL, their number (100 take about 4 s). A failure prints the history, shrunk, as
calls of the machine's rules, and a line `@reproduce_failure(...)` that brings it back when it is put above the machine.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.machine import Uploading

HISTORIES = int(os.environ.get("TUSGATE_TEST_MODEL") or 0)


def histories(number: int) -> settings:
    return settings(
        max_examples=HISTORIES or number,
        stateful_step_count=40,
        deadline=None,
        database=None,
        print_blob=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def test_no_history_contradicts_the_model() -> None:
    """I1 to I7, I9 to I11, I15, I20."""
    run_state_machine_as_test(Uploading, settings=histories(40))


@pytest.mark.slow
def test_no_long_series_of_histories_contradicts_the_model() -> None:
    run_state_machine_as_test(Uploading, settings=histories(600))
