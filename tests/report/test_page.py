"""The report in a real browser: what a reader sees and does, and that nothing leaves the file."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import encode_jpeg, write_file

from tailseg.report import page as page_module
from tailseg.report.evaluated import check_comparable
from tailseg.report.page import LARGEST_FILE, SCRIPT, thin_log, write_report

from .squares import ANT, BEE, GNU, dataset, evaluated, record

EVIL = "<script>alert(1)</script>"
FIRST = [
    record(1, ANT, 5, 5, 0.9),
    record(2, GNU, 41, 25, 0.8),
    record(2, BEE, 40, 25, 0.2),
    record(1, ANT, 40, 20, 0.7),
]
SECOND = [record(1, ANT, 5, 6, 0.6), record(2, ANT, 20, 10, 0.5), record(2, BEE, 40, 25, 0.9)]


def with_evil_names():
    """The squares, the gnu's name a script, as LVIS has its lists: everything was looked for everywhere."""
    data = dataset(neg_category_ids=[ANT, BEE, GNU], not_exhaustive_category_ids=[])
    data["categories"][0]["name"] = EVIL
    return data


@pytest.fixture
def one(read, tmp_path) -> str:
    """The address of the report of one run."""
    path = tmp_path / "one.html"
    write_report([evaluated(read(with_evil_names()), FIRST, name="first")], path)
    return path.as_uri()


@pytest.fixture
def two(read, tmp_path) -> str:
    """The address of a report that compares two runs."""
    annotations, path = read(with_evil_names()), tmp_path / "two.html"
    write_report(
        [
            evaluated(annotations, FIRST, name="first", recipe="tiny_softmax"),
            evaluated(annotations, SECOND, name="second"),
        ],
        path,
    )
    return path.as_uri()


def names(page):
    return page.locator("#classes tbody a").all_inner_texts()


def opened(page, address):
    page.goto(address)
    page.wait_for_selector("#controls:not([hidden])")
    return page


def class_page(page, name):
    """The page of a class, when its pictures are unpacked."""
    page.locator("#class h2").filter(has_text=name).wait_for()
    page.wait_for_function("!document.getElementById('class').textContent.includes('unpacking')")
    return page.locator("#class")


def test_the_head_line_shows_ap_by_group_and_fits_a_phone(page, one):
    opened(page, one)
    head = page.locator("header table").inner_text()
    assert re.search(r"masks\s+75.2\s+50.5\s+-\s+100.0", head), "rare 51 of 101 points, frequent all, no common object"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page does not scroll sideways"
    assert page.locator("#by-group svg[role=img]").count() == 1


def test_a_class_name_is_text_wherever_it_stands(page, one):
    opened(page, one)
    assert EVIL in names(page)
    page.get_by_role("link", name=EVIL).first.click()
    assert page.locator("#class h2").inner_text() == EVIL
    assert page.locator("script").filter(has_text="alert(1)").count() == 0
    opened(page, one + "#class-0")


def test_ap_by_a_field_of_the_images(page, read, tmp_path):
    """Two runs, and a value that is a script; the value of two images has no interval."""
    data, path = with_evil_names(), tmp_path / "fields.html"
    for image in data["images"]:
        image["site"] = EVIL if image["id"] == 1 else None
    annotations = read(data)
    runs = [evaluated(annotations, FIRST, name="first", by="site"), evaluated(annotations, SECOND, name="b", by="site")]
    write_report(runs, path)

    opened(page, path.as_uri())

    rows = page.locator("#slices-0 g").all_text_contents()
    assert [row.split(":")[0].replace(EVIL, "evil") for row in rows] == [
        f"{value}, {run}" for value in ("evil", "(none)") for run in ("first", "b")
    ]
    assert "1 image, 1 object, 1 class" in rows[0]
    assert "AP by site" in page.locator("#overview").inner_text()
    assert "2 of 2 values of the field 'site' have no interval" in page.locator("footer").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_names_of_runs_and_files_are_text(read, tmp_path):
    run = replace(evaluated(read(with_evil_names()), FIRST, name="first"), name=EVIL)
    for title in ("", EVIL):
        write_report([run, run], tmp_path / "evil.html", title=title)
        text = (tmp_path / "evil.html").read_text()
        assert "alert(1)&lt;/script&gt;" in text
        assert EVIL not in text


def test_a_cost_without_a_figure_is_a_dash(page, read, tmp_path):
    """No bee was detected, rightly or wrongly: of the frequent classes none is left without it."""
    path = tmp_path / "ants.html"
    write_report([evaluated(read(dataset()), [record(1, ANT, 5, 5, 0.9)], name="ants")], path)
    page.goto(path.as_uri())

    bars = page.locator("#errors g")
    missed = {text[: text.index(":")]: text for text in bars.all_text_contents() if ": 1 errors" in text}

    assert missed["frequent"] == "frequent: 1 errors–"
    assert missed["rare"] == "rare: 1 errors49.5", "one of two ants is found: recall ends at 51 of 101 points"


def test_a_class_that_training_never_shows_is_in_a_group_of_its_own(page, read, tmp_path):
    run = evaluated(read(with_evil_names()), FIRST, name="first")
    groups = {ANT: "r", GNU: "f"}
    run = replace(run, evidence=replace(run.evidence, truth=replace(run.evidence.truth, groups=groups)))
    write_report([run], tmp_path / "unseen.html")
    page.goto((tmp_path / "unseen.html").as_uri())
    assert page.locator("#groups label").all_text_contents() == [" rare", " common", " frequent", " never trained on"]
    assert page.locator("#classes .group.n").all_text_contents() == ["never trained on"]


def test_search_and_groups_filter_the_table_and_the_dots(page, one):
    opened(page, one)
    assert len(names(page)) == 3
    page.keyboard.press("/")
    page.keyboard.type("BE")
    assert names(page) == ["bee"]
    assert page.locator("#count").inner_text() == "1 of 3 classes"
    faint = page.locator('#scatter circle[fill-opacity="0.12"]')
    assert [faint.nth(i).get_attribute("data-class") for i in range(faint.count())] == ["0"], "the ant; no gnu, no dot"
    page.keyboard.press("Escape")
    page.get_by_role("checkbox", name="rare").uncheck()
    assert "ant" not in names(page)


def test_columns_sort_both_ways_and_say_so(page, one):
    opened(page, one)
    assert names(page)[:2] == ["bee", "ant"], "the best AP first, what has none last"
    page.get_by_role("button", name="AP ▼").click()
    assert names(page)[:2] == ["ant", "bee"]
    assert page.locator("th[aria-sort=ascending]").inner_text() == "AP ▲"
    page.get_by_role("button", name="class", exact=True).click()
    assert names(page) == [EVIL, "ant", "bee"]


def test_a_class_page_shows_found_missed_and_false_with_masks_and_training_examples(page, one):
    opened(page, one).get_by_role("link", name="ant", exact=True).first.click()
    titles = class_page(page, "ant").locator("h4").all_inner_texts()
    assert titles == ["Training examples (2)", "Found (1)", "Missed (1)", "False alarms (1)"]
    page.wait_for_selector("#class figure svg image")
    captions = page.locator("#class figcaption").all_inner_texts()
    assert captions == [
        "training",
        "training",
        "score 0.90, IoU 1.00",
        "no detection",
        "score 0.70, nothing annotated there",
    ]
    found = page.locator("#class figure").nth(2)
    assert found.locator("path.truth").count() == found.locator("path.found").count() == 1
    page.get_by_label("outlines").uncheck()
    assert not found.locator("path.found").is_visible()
    page.go_back()
    assert page.locator("#classes").is_visible()


def test_a_class_taken_for_another_is_shown_on_both_pages(page, one):
    opened(page, one + "#class-1")
    text = class_page(page, "bee").inner_text()
    assert f"its objects are taken for {EVIL} (1)" in text
    assert "Taken for another class (1)" in text
    page.get_by_role("link", name=EVIL).first.click()
    assert "taken for it are bee (1)" in class_page(page, EVIL).inner_text()
    assert "score 0.80, IoU 0.82 with bee" in page.locator("#class figcaption").all_inner_texts()


def test_the_keyboard_alone_reaches_every_class(page, one):
    opened(page, one)
    page.locator("#scatter svg").focus()
    page.keyboard.press("ArrowRight")
    assert "training images" in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_selector("#class h2")
    page.get_by_role("heading", name="bee").wait_for()
    page.keyboard.press("ArrowRight")
    page.get_by_role("heading", name="ant").wait_for()
    page.keyboard.press("ArrowLeft")
    page.get_by_role("heading", name="bee").wait_for()
    page.keyboard.press("Escape")
    page.wait_for_selector("#overview:not([hidden])")


def test_chosen_classes_are_drawn_as_precision_against_recall(page, one):
    opened(page, one)
    assert page.locator("#precision .legend").inner_text().split() == ["rare,", "mean", "frequent,", "mean"]
    page.get_by_label("add a class").fill("ant")
    page.get_by_label("add a class").press("Enter")
    assert page.locator("#precision .legend").inner_text() == "ant"
    page.get_by_role("button", name="ant ×").click()
    assert "mean" in page.locator("#precision .legend").inner_text()


def test_two_runs_are_compared_class_by_class(page, two):
    opened(page, two)
    assert page.locator("header tbody th").all_inner_texts() == ["first", "second"]
    row = page.locator("#classes tbody tr").filter(has_text="ant").inner_text().split()
    assert float(row[1]) < float(row[2])
    assert row[3].startswith("+"), "the second run finds both ants"
    assert page.locator("#settings strong").filter(has_text="SoftmaxCEConfig").count() == 1
    page.get_by_role("link", name="ant", exact=True).first.click()
    class_page(page, "ant")
    assert page.locator("summary").all_inner_texts() == ["first", "second"]
    page.goto(two)
    page.locator("#run").select_option("first")
    assert page.locator("#classes tbody .up").count() == 0, "the first run is what the others are compared with"


def test_dark_mode_follows_the_system(page, one):
    page.emulate_media(color_scheme="dark")
    opened(page, one)
    red = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert int(red) < 60


def test_the_page_forbids_itself_all_requests_and_foreign_scripts(one):
    text = Path(one.removeprefix("file://")).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert "'sha256-" in policy
    script = text[: text.index("</html>")]
    assert "http://www.w3.org/2000/svg" in script, "the name of SVG's tags"
    assert set(re.findall(r"https?://[^\"'\s<)]*", script)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


def test_every_part_of_the_script_is_in_the_page_once():
    folder = Path(page_module.__file__).parent / "script"
    assert sorted([*SCRIPT, "data", "errors", "try"]) == sorted(path.stem for path in folder.iterdir())


def test_lvis_size_stays_below_five_megabytes(read, tmp_path):
    noise = np.random.default_rng(0)
    data = dataset()
    data["categories"] = [{"id": i, "name": f"class {i}", "frequency": "rcf"[i % 3]} for i in range(1, 1204)]
    side = {"height": 160, "width": 160}
    data["images"] = [data["images"][0] | side | {"id": i, "file_name": f"{i % 40}.jpg"} for i in range(1, 1204)]
    corners = noise.integers(0, 100, (1203, 2)).tolist()
    boxes = [[x, y, 60, 60] for x, y in corners]
    data["annotations"] = [
        {"id": i, "image_id": i, "category_id": i, "bbox": box, "area": 3600, "iscrowd": 0}
        | {"segmentation": [[box[0], box[1], box[0] + 60, box[1], box[0] + 30, box[1] + 60]]}
        for i, box in enumerate(boxes, start=1)
    ]
    annotations = read(data)
    for file in tmp_path.glob("*.jpg"):
        pixels = torch.from_numpy(noise.integers(0, 256, (3, 160, 160), dtype=np.uint8))
        write_file(str(file), encode_jpeg(pixels, quality=95))
    records = [
        {"image_id": image, "category_id": i, "bbox": [float(v) for v in box], "score": float(noise.uniform(0.3, 1))}
        for i, box in enumerate(boxes, start=1)
        for image in (i, *noise.integers(1, 1204, 5).tolist())  # one is right, the others are false alarms
    ]

    write_report([replace(evaluated(annotations, records, name="noise"), train=None)], tmp_path / "report.html")

    assert 3_000_000 < (tmp_path / "report.html").stat().st_size < LARGEST_FILE
    assert "there was no room for" in (tmp_path / "report.html").read_text(), "noise fills any file"


def test_the_file_is_no_larger_than_it_may_be(read, monkeypatch):
    """However wrong the estimate of what pictures and outlines take."""
    run = evaluated(read(with_evil_names()), FIRST, name="first")
    real, built = page_module.fit, []

    def fit(galleries, build, *, limit):
        built.append(galleries)
        return real(galleries, build, limit=limit)

    class Roomy(page_module.Galleries):
        """Believes that there is room for everything."""

        def __init__(self, keys, *, room):
            super().__init__(keys, room=10**9)

    monkeypatch.setattr(page_module, "fit", fit)
    monkeypatch.setattr(page_module, "Galleries", Roomy)
    full = len(page_module.render([run], title="a")[0].encode())
    all_shown = built[-1].shown
    assert all_shown > 3
    for less in (1, 100, 300):
        monkeypatch.setattr(page_module, "LARGEST_FILE", full - less)
        text, _ = page_module.render([run], title="a")
        assert full - less - 500 < len(text.encode()) <= full - less
        left = built[-1]
        assert left.left_out > 0
        pictures = f"{left.left_out} more picture{'s' * (left.left_out > 1)}"
        assert f"The file is full: there was no room for {pictures}." in text
        assert left.shown == sum(len(gallery["pictures"]) for gallery in left.of.values()) < all_shown
        for gallery in left.of.values():
            assert {item[0] for item in gallery["items"]} == set(range(len(gallery["pictures"])))


def test_images_that_are_gone_leave_a_report_without_pictures(read, tmp_path):
    annotations = read(dataset())
    for image in tmp_path.glob("*.jpg"):
        image.unlink()
    write_report([evaluated(annotations, SECOND, name="run")], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert re.search(
        r"All photographs are missing, and outlines are drawn on empty frames: image \d.jpg not found", text
    )
    assert str(tmp_path) not in text, "who gets the page need not know the folders of this machine"


def test_runs_on_different_data_are_not_compared(read):
    annotations = read(dataset())
    run = evaluated(annotations, SECOND, name="a")
    data = dataset()
    data["images"].append(data["images"][0] | {"id": 3})
    other = evaluated(read(data), SECOND, name="b")
    with pytest.raises(ValueError, match="a and b were evaluated on different images"):
        check_comparable([run, other])


def test_a_long_log_is_averaged_to_few_points():
    lines = tuple({"kind": "train", "step": step, "loss": float(step % 2)} for step in range(1, 1001))
    columns = thin_log(lines, "train", points=100)
    assert len(columns["step"]) == 100
    assert columns["step"][0] == 5.5
    assert columns["loss"] == [0.5] * 100
    assert thin_log(lines, "val") == {}
