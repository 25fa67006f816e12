"""Who gives memory back when the budget runs short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tusgate.core.pressure import PATIENCE, SLOW_FILL, Holding, choose, excess

LIMIT = 1000
holdings = st.lists(st.builds(Holding, st.integers(0, 100), st.integers(1, 100), st.floats(0, 1e6)), max_size=12)


@pytest.mark.parametrize(
    ("resting", "waited", "expected"),
    [
        (750, 0.0, 0),
        (751, 0.0, 250),
        (1000, 0.0, 250),
        (1100, 0.0, 350),
        (250, PATIENCE, 0),
        (251, PATIENCE, 250),
        (740, PATIENCE / 2, 0),
    ],
)
def test_resting_bytes_are_saved_above_a_level_that_falls_when_somebody_waits(
    resting: int, waited: float, expected: int
) -> None:
    assert excess(LIMIT, resting, waited) == expected


def test_the_cell_that_occupies_the_most_for_the_longest_is_saved_first() -> None:
    slow_large, slow_small, fast = Holding(100, 100, 1.0), Holding(10, 100, 1.0), Holding(100, 1, 1.0)
    assert choose([fast, slow_small, slow_large], 1, only_slow=False) == [2]
    assert choose([fast, slow_small, slow_large], 101, only_slow=False) == [2, 1]


def test_a_cell_that_does_not_fill_at_all_is_the_slowest() -> None:
    assert Holding(5, 1, 0.0).seconds_to_fill == float("inf")
    assert choose([Holding(50, 100, 1.0), Holding(50, 1, 0.0)], 1, only_slow=True) == [1]


def test_cells_about_to_be_full_are_spared_while_something_else_moves() -> None:
    nearly = Holding(900, 10, 10 / SLOW_FILL)
    assert choose([nearly], 500, only_slow=True) == []
    assert choose([nearly], 500, only_slow=False) == [0]


@given(holdings, st.integers(-10, 1200), st.booleans())
def test_enough_is_chosen_and_no_cell_too_many(found: list[Holding], wanted: int, only_slow: bool) -> None:
    chosen = choose(found, wanted, only_slow=only_slow)
    freed = [found[index].held for index in chosen]
    eligible = [h for h in found if h.held and not (only_slow and h.seconds_to_fill <= SLOW_FILL)]
    assert len(set(chosen)) == len(chosen)
    assert all(freed)
    assert sum(freed) >= min(wanted, sum(h.held for h in eligible))
    assert sum(freed[:-1]) < max(wanted, 1)
    if only_slow:
        assert all(found[index].seconds_to_fill > SLOW_FILL for index in chosen)
