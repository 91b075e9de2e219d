"""Metrics: the table in 80 columns, and JSON."""

import io
import json

import pytest
from rich.console import Console

from tailseg.evaluation import ClassScore, Metrics

NAMES = ("AP", "AP50", "AP75", "APr", "APc", "APf", "AP50f", "APs", "APm", "APl", "AR", "ARs", "ARm", "ARl")


def make(**changes):
    whole = dict.fromkeys(NAMES, 1.0)
    options = {
        "scores": {"bbox": whole, "segm": dict.fromkeys(NAMES, 0.4267) | {"APr": None}},
        "per_class": {"segm": (ClassScore(3, "ant", "r", 2, 0.5, 0.6, 0.7),)},
        "protocol": "lvis",
        "max_detections": 300,
        "num_images": 19_809,
        "num_detections": 5_942_700,
        "notes": ("12 masks without a pixel: dropped, as lvis-api does",),
    }
    return Metrics(**(options | changes))


def test_the_table_fits_80_columns_at_its_widest():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(make().table())
    lines = [line.rstrip() for line in console.export_text().splitlines()]

    assert lines[1].split() == ["AP", "AP50", "AP75", "APr", "APc", "APf", "APs", "APm", "APl", "AR"]
    assert lines[3].split() == ["boxes", *["100.0"] * 10]
    assert lines[4].split() == ["masks", "42.7", "42.7", "42.7", "-", *["42.7"] * 6]
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert "12 masks without a pixel" in " ".join(lines), "the notes go where the figures go"


@pytest.mark.parametrize("length", [79, 80, 81, 82])
def test_no_figure_of_a_note_is_cut_beside_a_row_of_eight_letters(length):
    """A word that ends at the edge of 80 columns stays whole, or goes to the next line."""
    note = f"{'x' * (length - 3)} 31 of 249"
    table = make(notes=(note,)).table()
    table.add_row("b. fixed", *["100.0"] * 10)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()

    assert " ".join(text.split()).endswith(note)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80


def test_json_holds_everything():
    data = json.loads(make().to_json())

    assert data["scores"]["segm"]["APr"] is None
    assert data["per_class"]["segm"][0] == {
        "category_id": 3, "name": "ant", "group": "r", "num_objects": 2, "AP": 0.5, "AP50": 0.6, "AR": 0.7
    }  # fmt: skip
    assert data["protocol"] == "lvis"
    assert data["notes"] == ["12 masks without a pixel: dropped, as lvis-api does"]
