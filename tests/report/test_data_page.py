"""The page of a data set in a real browser: its numbers, without and with its script, and that names are text."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.annotations.summary import summarize
from tailseg.report import data_page
from tailseg.report.builder import MAX_BYTES
from tailseg.report.data_page import render, sample
from tailseg.report.example_sheet import CELL, draw_example_sheet, draw_object
from tailseg.report.thumbnails import limit_aspect

EVIL = "<script>alert(1)</script>"


def set_up(raw: dict[str, Any]) -> dict[str, Any]:
    """The class three has two objects, seven one, and a class with an evil name none; the images have one size."""
    raw["categories"][0]["name"] = "<i>seven</i>"
    raw["categories"].append({"id": 9, "name": EVIL})
    raw["annotations"][1]["bbox"] = [0.0, 0.0, 48.0, 36.0]
    return raw


def render_page(annotations: Annotations) -> tuple[str, str, int]:
    sampled = None
    if annotations.objects.trainable.any():
        sampled = sample(annotations, "repeat, threshold auto", 1, sampling="repeat", threshold="auto")
    return render(annotations, summarize(annotations), sampled, 1)


def read_rows(text: str, table: str) -> list[list[str]]:
    """The texts of the cells of a table's body."""
    body = text[text.index(f'<table id="{table}"') :]
    body = body[body.index("<tbody>") : body.index("</tbody>")]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    return [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in rows]


def test_the_page_in_a_browser(page: Any, raw: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    text, problem, num_pictures = render_page(read_dataset(write(set_up(raw), images=True)))
    assert (problem, num_pictures) == ("", 3)
    (tmp_path / "show.html").write_text(text)
    page.goto((tmp_path / "show.html").as_uri())
    page.wait_for_selector("#controls:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page does not scroll sideways"
    names = page.locator("#classes tbody th")
    assert names.all_text_contents() == ["three", "<i>seven</i>", EVIL]
    page.get_by_role("button", name="objects", exact=True).click()
    page.get_by_role("button", name="objects", exact=True).click()
    assert names.all_text_contents() == [EVIL, "<i>seven</i>", "three"]
    page.fill("#search", "EVEN")
    assert page.locator("#classes tbody tr:visible").count() == 1
    assert page.locator("#count").inner_text() == "1 of 3 classes"
    page.uncheck("#controls input[value=r]")
    assert page.locator("#count").inner_text() == "0 of 3 classes"
    assert page.locator("#examples article").count() == 2
    assert page.locator("#examples image").count() == 3
    assert page.locator("main script, article i").count() == 0


def test_the_numbers_are_those_of_the_file(raw: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    text, problem, num_pictures = render_page(read_dataset(write(set_up(raw))))
    assert num_pictures == 0
    assert re.search(r"There are no pictures: image [ab]\.jpg not found\. Name their folder with --images", text)
    assert str(tmp_path) in problem
    assert str(tmp_path) not in text, "who gets the page need not know the folders of this machine"
    assert "<image" not in text
    assert EVIL not in text
    rows = {row[0]: row[1:] for row in read_rows(text, "classes")}
    small = "20.0"  # boxes of 20 x 20 and 48 x 36 pixels: sides of 20 and 41.6; the image of seven is drawn twice
    three = ["rare", "2", "2", "1.0", "21.1", "30.8", "40.5", "74.1", "50", "50", "0", "100", "100", "1.50"]
    assert rows["three"] == three
    assert rows["&lt;i&gt;seven&lt;/i&gt;"][:7] == ["rare", "1", "1", "1.0", small, small, small]
    assert rows["&lt;script&gt;alert(1)&lt;/script&gt;"] == ["rare", "0", "0", *["–"] * 8, "0", "0", "–"]
    assert "2 of 3" in text
    assert "http-equiv" in text
    assert "default-src 'none'" in text


def test_lvis_lists_and_stated_groups(raw: Any, write: Callable[..., Path]) -> None:
    for image in raw["images"]:
        image |= {"neg_category_ids": [7] if image["id"] == 20 else [], "not_exhaustive_category_ids": []}
    for category, group in zip(raw["categories"], "fr", strict=True):
        category["frequency"] = group
    text, *_ = render_page(read_dataset(write(raw)))
    rows = {row[0]: row[1:] for row in read_rows(text, "classes")}
    assert rows["seven"][:5] == ["frequent", "1", "1", "1.0", "1"], "the class is known to be absent from one image"
    assert rows["three"][:5] == ["rare", "2", "2", "1.0", "0"]
    assert "The file states the group of each class." in text


def test_a_file_of_crowds_alone(raw: Any, write: Callable[..., Path]) -> None:
    for annotation in raw["annotations"]:
        annotation["iscrowd"] = 1
    text, problem, num_pictures = render_page(read_dataset(write(raw), use="boxes", on_problem="repair"))
    assert (problem, num_pictures) == ("", 0)
    assert "The file has no objects." in text
    assert 'id="sampling"' not in text
    assert all(row[2:4] == ["0", "0"] for row in read_rows(text, "classes"))


def test_many_classes_with_long_names_stay_below_the_largest_size(
    raw: Any, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_page, "MAX_CLASSES", 1000)
    draws = np.random.default_rng(0)
    raw["images"] = [{"id": i, "file_name": f"{i}.jpg", "height": 36, "width": 48} for i in range(500)]
    raw["categories"] = [{"id": i, "name": f"{i} {'long ' * 100}"} for i in range(1, 3001)]
    raw["annotations"] = [
        {
            "id": i,
            "image_id": int(draws.integers(500)),
            "category_id": i,
            "bbox": [1, 1, 9, 9],
            "area": 81,
            "iscrowd": 0,
        }
        for i in range(1, 3001)
    ]
    text, *_ = render_page(read_dataset(write(raw), use="boxes"))
    assert len(text.encode()) < MAX_BYTES / 2
    assert len(read_rows(text, "classes")) == 1000
    assert "2,000 classes in the middle are left out" in text
    assert "long long long" in text
    assert "…" in text


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (4000, 3000), (6000, 200)])
def test_examples_show_the_object_whatever_the_size_of_the_image(
    size: tuple[int, int], raw: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    """A bright object of 20 x 20 pixels fills at least a sixteenth of its example, in the color of its group."""
    width, height = size
    raw["images"] = [{"id": 1, "file_name": "a.png", "height": height, "width": width}]
    x, y = width - 40, height - 30
    square = [[x, y, x + 20, y, x + 20, y + 20, x, y + 20]]
    box = {"bbox": [x, y, 20, 20], "area": 400, "segmentation": square}
    raw["annotations"] = [raw["annotations"][0] | {"image_id": 1} | box]
    image = Image.new("RGB", size, "black")
    image.paste((0, 255, 0), (x, y, x + 20, y + 20))
    image.save(tmp_path / "a.png")
    annotations = read_dataset(write(raw))
    drawn = np.asarray(draw_object(annotations, 0)).astype(int)
    assert max(drawn.shape) == CELL
    green = (drawn[..., 1] > 150) & (drawn[..., 0] < 100)
    assert green.mean() > 1 / 16
    red = np.abs(drawn - (230, 25, 75)).max(axis=2) < 10
    assert red.any(axis=1).sum() > 100, "the outline is as high as the object"
    sheet = draw_example_sheet(annotations, summarize(annotations))
    assert sheet.width > 4 * CELL


def test_a_strip_is_shortened_around_its_object() -> None:
    assert limit_aspect((0, 0, 6000, 200), (5000, 0, 5900, 200)) == (5150, 0, 5750, 200)
    assert limit_aspect((10, 20, 110, 1020), (10, 20, 110, 60)) == (10, 20, 110, 320)
    assert limit_aspect((0, 0, 300, 100), (0, 0, 300, 100)) == (0, 0, 300, 100)
