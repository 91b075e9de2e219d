"""The page of label errors in a real browser: keys decide, the button saves what `data apply` reads."""

import json

import pytest
import torch
from torchvision.io import encode_jpeg, write_file

from tailseg.annotations.patch import Change, apply_patch, compute_key, read_patch
from tailseg.annotations.read import read_dataset
from tailseg.annotations.writers.labels import read_labels
from tailseg.label_errors.page import render
from tailseg.label_errors.suspects import KINDS, Suspect

EVIL = "<script>alert(1)</script>"
BOX = (20.0, 20.0, 60.0, 50.0)


@pytest.fixture
def annotations(tmp_path):
    write_file(str(tmp_path / "a.jpg"), encode_jpeg(torch.full((3, 100, 120), 90, dtype=torch.uint8)))
    polygon = [[20, 20, 60, 20, 60, 50, 20, 50]]
    one = {"image_id": 1, "category_id": 1, "bbox": [20, 20, 40, 30], "area": 1200, "segmentation": polygon}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 100, "width": 120}],
        "annotations": [one | {"id": number} for number in (1, 2, 3)],
        "categories": [{"id": 1, "name": EVIL}, {"id": 2, "name": "bee"}],
    }
    path = tmp_path / "my.json"
    path.write_text(json.dumps(content))
    return read_dataset(path)


def suspects():
    common = {"image_id": 1, "index": 0, "category_id": 1, "group": "r", "box": BOX}
    new = {"new_box": (21.0, 20.0, 61.0, 50.0)}
    return {
        "class": [
            Suspect("class", 0.9, annotation_id=1, row=0, new_category_id=2, **common),
            Suspect("class", 0.8, annotation_id=2, row=1, new_category_id=2, **common),
        ],
        "missing": [Suspect("missing", 0.7, annotation_id=None, new_category_id=1, **new, **common)],
        "outline": [Suspect("outline", 0.6, annotation_id=1, row=0, **new, **common)],
        "duplicate": [Suspect("duplicate", 0.95, annotation_id=3, row=2, other_row=0, **common)],
    }


@pytest.fixture
def page(browser, annotations, tmp_path):
    text, shown = render(annotations, suspects(), limit=10)
    assert shown == 5
    file = tmp_path / "errors.html"
    file.write_text(text)
    context = browser.new_context(accept_downloads=True)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
    page.goto(file.as_uri())
    page.wait_for_selector("#controls:not([hidden])")
    yield page
    context.close()
    assert complaints == []


def test_keys_decide_and_the_saved_patch_is_applied(page, annotations, tmp_path):
    cards = page.locator("#suspects > li")
    assert cards.count() == 2
    assert cards.first.locator("strong").inner_text() == f"{EVIL} → bee"
    page.keyboard.press("y")  # the first one, and moves on
    page.keyboard.press("u")
    assert page.locator("#status").inner_text() == "0 confirmed, 0 dismissed"
    page.keyboard.press("y")
    page.keyboard.press("n")
    page.select_option("#kind", "duplicate")
    cards.first.locator("button", has_text="confirm").click()
    page.keyboard.press("n")  # keys work after a click, too
    page.keyboard.press("y")
    page.select_option("#kind", "missing")
    cards.first.focus()
    page.keyboard.press("y")
    page.keyboard.press("u")
    assert page.locator("#status").inner_text() == "2 confirmed, 1 dismissed"
    with page.expect_download() as download:
        page.click("#save")
    file = tmp_path / "patch.json"
    download.value.save_as(file)
    patch = read_patch(file)
    assert patch.key == compute_key(annotations.path)
    assert patch.changes == [
        Change("class", 1, 1, {"category_id": 1}, {"category_id": 2}),
        Change("duplicate", 1, 3, {"category_id": 1}, None),
    ]
    labels = read_labels(annotations)
    apply_patch(labels, patch)
    assert [(one["id"], one["category_id"]) for one in labels.objects[1]] == [(1, 2), (2, 1)]


def test_groups_select_and_outlines_are_drawn(page):
    cards = page.locator("#suspects > li")
    page.select_option("#group", "f")
    assert cards.count() == 0
    page.select_option("#group", "r")
    for kind in KINDS:
        page.select_option("#kind", kind)
        drawn = {path.get_attribute("class") for path in cards.first.locator("path").all()}
        assert drawn == {"halo"} | {"class": {"truth"}, "missing": {"found"}}.get(kind, {"truth", "found"})


def test_the_page_shows_as_many_as_asked(annotations):
    _, shown = render(annotations, suspects(), limit=1)
    assert shown == 4
