"""The texts by which share links and sessions are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tusgate.core.sharing import Proven, ShareId, ShareKeys

KEYS = ShareKeys(["first" * 8, "second" * 8])
ID = ShareId("A" * 24)
SESSION = KEYS.session(ID, Proven.DOWNLOAD, 1000)


def test_an_address_opens_its_own_link_by_any_of_the_keys() -> None:
    assert KEYS.share_of(KEYS.address(ID)) == ID
    assert KEYS.share_of(ShareKeys(["second" * 8]).address(ID)) == ID
    assert KEYS.share_of(ShareKeys(["third" * 8]).address(ID)) is None


@given(st.text(), st.integers(0, 47))
def test_nothing_else_does(text: str, place: int) -> None:
    address = KEYS.address(ID)
    changed = address[:place] + text + address[place + 1 :]
    assert KEYS.share_of(changed) == (ID if changed == address else None)
    assert KEYS.share_of(text) is None


@given(st.text(), st.integers(0, len(SESSION) - 1))
def test_a_session_proves_what_it_was_made_for_and_no_text_like_it(text: str, place: int) -> None:
    changed = SESSION[:place] + text + SESSION[place + 1 :]
    assert KEYS.proven(changed, ID, 999) == (Proven.DOWNLOAD if changed == SESSION else None)


def test_a_session_ends_and_is_of_one_link() -> None:
    assert KEYS.proven(SESSION, ID, 999) is Proven.DOWNLOAD
    assert KEYS.proven(SESSION, ID, 1000) is None
    assert KEYS.proven(SESSION, ShareId("B" * 24), 999) is None
    assert KEYS.proven(KEYS.session(ID, Proven.KNOWS, 1000), ID, 999) is Proven.KNOWS


def test_an_address_is_no_session_and_a_session_no_address() -> None:
    assert KEYS.proven("d1000." + KEYS.address(ID)[24:], ID, 999) is None
    assert KEYS.share_of(ID + SESSION.partition(".")[2]) is None
