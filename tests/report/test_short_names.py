"""Long names in little room."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from deepcompress.report import tables
from deepcompress.report.names import labels, shorten

LAYERS = [f"encoder.layer.{index}.intermediate.dense.weight" for index in range(12)]


def test_numbers_and_the_last_part_stay():
    assert shorten(LAYERS[3], 50) == LAYERS[3]
    assert shorten(LAYERS[3], 36) == "encoder.layer.3.interme…dense.weight"
    for most in range(20, 42):
        found = shorten(LAYERS[3], most)
        assert len(found) <= most
        assert "3." in found
        assert found.endswith("weight")


def test_a_single_long_part_keeps_its_ends():
    assert shorten("abcdefghij", 9) == "ab…efghij"
    assert shorten("abcdefghij.k", 9) == "abcdefg…k"
    assert shorten("block.123456.weight", 17) == "blo…123456.weight"


@pytest.mark.parametrize("most", [12, 22, 32])
def test_names_stay_apart(most):
    names = [*LAYERS, "alpha_one.weight", "alpha_two.weight", "conv1.weight"]
    found = labels(names, most)
    assert len(set(found[12:])) == 3
    assert all(len(label) <= most for label in found)
    if most >= 20:
        assert len(set(found)) == len(names)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_and_cuts_no_number(width):
    columns = [("Layer", "left", 0), ("Shape", "left", 1), ("Bytes", "right", 0), ("Dense ms", "right", 0)]
    rows = [[name, "512×128", "123,456,789", "1234.567"] for name in LAYERS]
    console = Console(width=width, file=io.StringIO())
    console.print(tables.fitting(columns, rows, width))
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2 + len(rows)
    assert max(map(len, lines)) <= width
    assert all("123,456,789" in line and "1234.567" in line for line in lines[2:])
    assert all(f"{index}." in line for index, line in enumerate(lines[2:]))
