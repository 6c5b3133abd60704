"""Parts of an array, each in a thread of its own."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepcompress.coding.threads import run, split


@given(st.integers(0, 10_000), st.integers(1, 70), st.integers(1, 300))
def test_parts_cover_everything_once_and_evenly(size, threads, grain):
    parts = split(size, threads, grain)
    assert 1 <= len(parts) <= threads
    assert parts[0][0] == 0
    assert parts[-1][1] == size
    assert all(stop == start for (_, stop), (start, _) in pairwise(parts))
    assert all(start % grain == 0 for start, _ in parts)
    sizes = [stop - start for start, stop in parts]
    assert max(sizes) - min(sizes) <= 2 * grain
    assert min(sizes) > 0 or size == 0


@pytest.mark.parametrize(
    ("size", "threads", "grain", "parts"),
    [
        (0, 4, 8, [(0, 0)]),
        (7, 4, 8, [(0, 7)]),
        (9, 4, 8, [(0, 8), (8, 9)]),
        (100, 1, 8, [(0, 100)]),
        (64, 2, 8, [(0, 32), (32, 64)]),
        (70, 3, 10, [(0, 20), (20, 40), (40, 70)]),
    ],
)
def test_parts_by_hand(size, threads, grain, parts):
    assert split(size, threads, grain) == parts


def test_results_come_in_order_from_threads_of_their_own():
    together = threading.Barrier(3, timeout=60)  # passed only if all three run at the same time

    def work(start, stop):
        together.wait()
        return start, stop, threading.get_ident()

    results = run(work, [(0, 1), (1, 5), (5, 9)])
    assert [result[:2] for result in results] == [(0, 1), (1, 5), (5, 9)]
    assert len({result[2] for result in results} | {threading.get_ident()}) == 4


def test_one_part_needs_no_thread():
    assert run(lambda start, stop: (start, stop, threading.get_ident()), [(2, 3)]) == [(2, 3, threading.get_ident())]


def test_an_error_in_a_thread_is_an_error_here():
    def work(start, _):
        if start:
            raise ValueError("part two")

    with pytest.raises(ValueError, match="part two"):
        run(work, [(0, 1), (1, 2)])
