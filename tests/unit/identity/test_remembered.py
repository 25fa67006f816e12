"""What is remembered of credentials: little, not for long, and no credential."""

from __future__ import annotations

from tests.wire.rig import Clock
from tusgate.core.access import Principal
from tusgate.identity.remembered import MOST, Remembered


def test_only_the_latest_are_remembered() -> None:
    remembered = Remembered(5.0, Clock())
    for number in range(MOST + 10):
        remembered.keep(str(number), Principal(proof=str(number)))
    assert len(remembered._entries) == MOST
    assert remembered.find("9") is None
    assert remembered.find("10") == Principal(proof="10")


def test_nothing_is_believed_after_its_time_nor_after_a_clock_that_went_back() -> None:
    clock = Clock()
    remembered = Remembered(5.0, clock)
    for step in (5.0, -1.0):
        remembered.keep("a", Principal())
        clock.now += step
        assert remembered.find("a") is None


def test_a_credential_that_is_no_text_is_one_like_any_other() -> None:
    remembered = Remembered(5.0, Clock())
    assert remembered.find("\udcff") is None
    remembered.keep("\udcff", Principal())
    assert remembered.find("\udcff") == Principal()
