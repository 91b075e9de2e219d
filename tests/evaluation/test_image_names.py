"""Which image a result record means: by id, by name, by its own file_name, and what is said where these disagree."""

import gzip
import json

import pytest

from tailseg.evaluation import evaluate
from tailseg.evaluation.detections import read_detections
from tailseg.evaluation.ground_truth import read_ground_truth

NAMES = ("4.jpg", "1.jpg", "3.jpg", "2.jpg")


def box(image):
    """Its object, which overlaps that of no other image."""
    return [20.0 * image, 5.0, 15.0, 10.0]


def truth(names=NAMES, ids=(1, 2, 3, 4)):
    """Images of 40 x 100 with an object each, at a place of its own."""
    return {
        "images": [
            {"id": i, "file_name": n, "height": 40, "width": 100} for i, n in zip(ids, names, strict=True) if n != "-"
        ],
        "categories": [{"id": 1, "name": "ant"}],
        "annotations": [
            {"id": place + 1, "image_id": i, "category_id": 1, "bbox": box(place), "area": 150, "iscrowd": 0}
            for place, i in enumerate(ids)
        ],
    }


def found(image_ids, file_names=None):
    """A perfect detection in each image, in the order of the truth."""
    records = [
        {"image_id": image_id, "category_id": 1, "bbox": box(place), "score": 0.9}
        for place, image_id in enumerate(image_ids)
    ]
    for record, name in zip(records, file_names or (), strict=file_names is not None):
        record["file_name"] = name
    return records


@pytest.fixture(params=[False, True], ids=["records", "file"])
def score(tmp_path, request):
    """AP of boxes, and the notes: of records as they are, and of a file."""

    def score(results, data):
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(data))
        if request.param:
            (tmp_path / "results.json").write_text(json.dumps(results))
            results = tmp_path / "results.json"
        metrics = evaluate(path, results, iou_types=("bbox",))
        return metrics["bbox"]["AP"], metrics.notes

    return score


OWN = ("own/4.jpg", "own\\1.jpg", "./3.jpg", "2.jpg")
ONES = ("b/1.jpg", "c/1.jpg", "1.jpg")
FOLDERS = ("a/4.jpg", "a/1.jpg", "b/3.jpg", "b/2.jpg")
SAME = ("a/1.jpg", "b/1.jpg", "b/3.jpg", "b/2.jpg")
ZEROS = ("000004.png", "000001.png", "000003.png", "000002.png")
OTHER_IDS = "the image_id of 3 of 4 records is that of another image"
CLASH = "the image_id of 3 of 4 records are ids of"


@pytest.mark.parametrize(
    ("results", "names", "words"),
    [
        (found((1, 2, 3, 4), NAMES), NAMES, ""),
        (found((4, 1, 3, 2), NAMES), NAMES, OTHER_IDS),
        (found((4, 1, 3, 2), OWN), NAMES, OTHER_IDS),
        (found((7, 8, 9, 10), OWN), NAMES, ""),
        (found((None, 1.5, True, [3]), NAMES), NAMES, ""),
        (found(("4.jpg", "1.jpg", "3.jpg", "2.jpg")), NAMES, ""),
        (found(("x\\4.jpg", "x/1.jpg", "3", "2.jpg")), NAMES, ""),
        (found((4, 1, 3, 2)), NAMES, CLASH),
        (found(("4", "1", "3", "2")), NAMES, CLASH),
        (found((1, 2, 3, 4)), NAMES, CLASH),
        (found((1.0, "2", 3, 4)), NAMES, "2 values of 'image_id' are written as 1.0"),
        (found((1, 2, 3, 4)), ("1.jpg", "2.jpg", "3.jpg", "4.jpg"), ""),
        (found((1, 2, 3, 4), ("4.jpg", "zz.jpg", "3.jpg", "2.jpg")), NAMES, "1 of 4 records is that of no image of"),
        (found((1, 2, 3, 4), NAMES), ("a.jpg", "b.jpg", "c.jpg", "d.jpg"), "4 of 4 records is that of no image of"),
        (found((9, 8, 7, 6), ("set/a/1.jpg", "b/1.jpg", "c/1.jpg", "1.jpg")), ("a\\1.jpg", *ONES), ""),
        (found((9, 8, 7, 6), NAMES), FOLDERS, ""),
        (found((9, 8, 7, 6), ("p/4.jpg", "p/1.jpg", "3.jpg", "2.jpg")), FOLDERS, "2 names in the results have other"),
        (found((4, 1, 3, 2)), ZEROS, CLASH),
        (found(("000004", "000001.png", "000003", "000002")), ZEROS, ""),
    ],
)  # fmt: skip
def test_the_image_that_is_meant_is_found(score, results, names, words):
    figure, notes = score(results, truth(names))

    assert figure == pytest.approx(1)
    assert len(notes) == (len(words) > 0)
    assert words in "".join(notes)


def test_a_clash_is_said_with_what_speaks_for_either_reading(score):
    _, (note,) = score(found((4, 1, 3, 2)), truth())

    assert "(4 is the id of 2.jpg and the name of 4.jpg): taken as names; 4 of 4 detections lie on an object" in note
    assert "1 in the other way. Give each record the file_name of its image, which decides" in note


def test_where_nothing_decides_numbers_are_ids_and_texts_are_names(score):
    """Detections that lie on no object either way."""
    for spell, kind in ((int, "ids"), (str, "names")):
        lost = [
            record | {"image_id": spell(record["image_id"]), "bbox": [0, 30, 5, 5]} for record in found((4, 1, 3, 2))
        ]

        _, notes = score(lost, truth())

        assert any(f"taken as {kind}; 0 of 4 detections" in note for note in notes)


def test_masks_of_another_size_than_the_ids_images_make_numbers_names(tmp_path):
    data, path = truth(), tmp_path / "truth.json"
    sizes = {"4.jpg": 40, "1.jpg": 50, "3.jpg": 60, "2.jpg": 70}
    for image, entry in zip(data["images"], data["annotations"], strict=True):
        image["height"] = sizes[image["file_name"]]
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    path.write_text(json.dumps(data))
    records = [
        record | {"segmentation": {"size": [height, 100], "counts": [0, 10, height * 100 - 10]}}
        for record, height in zip(found((4, 1, 3, 2)), sizes.values(), strict=True)
    ]

    metrics = evaluate(path, records)

    assert metrics["bbox"]["AP"] == pytest.approx(1)
    assert any("taken as names: otherwise masks have another size than their images" in note for note in metrics.notes)


def test_ids_that_the_file_writes_as_texts_are_ids_in_results_too(score):
    """A file's own spelling is no name, though images have such names as well."""
    data = truth()
    for image in data["images"]:
        image["id"] = str(image["id"])
    for entry in data["annotations"]:
        entry["image_id"] = str(entry["image_id"])

    figure, notes = score(found(("1", "2", "3", "4")), data)

    assert figure == pytest.approx(1)
    assert any("taken as ids" in note for note in notes)


PIECE = [record | {"image_id": 1 + row % 4} for row, record in enumerate(found(range(8)))] * 800
"""Records for more than one piece of a file."""


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"image_id": 99}, "the image_id of 2 of 6,402 records is not in .* \\(99 ..\\): were they made for another"),
        ({"image_id": "x"}, "'image_id' of record 6400 should be a whole number, got 'x' \\(2 of 6,402 records are wr"),
        ({"score": None}, "'score' of record 6400 should be a finite number, got None \\(2 of 6,402 records are wrong"),
        (
            {"category_id": 5},
            "the category_id of 2 of 6,402 records is not in .* \\(5 ..\\): use the category ids",
        ),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_messages_count_the_whole_file(tmp_path, last, message, first):
    """Wherever the wrong records are: the rest of the file is counted too."""
    (tmp_path / "truth.json").write_text(json.dumps(truth(("a.jpg", "b.jpg", "c.jpg", "d.jpg"))))
    wrong = [PIECE[0] | last] * 2
    (tmp_path / "results.json").write_text(json.dumps([*wrong, *PIECE] if first else [*PIECE, *wrong]))

    with pytest.raises(ValueError, match=message.replace("6400", "0") if first else message):
        evaluate(tmp_path / "truth.json", tmp_path / "results.json", iou_types=("bbox",))


@pytest.mark.parametrize(
    ("results", "names", "message"),
    [
        (found((2, 1, 3, 4), ("4.jpg", "zz.jpg", "3.jpg", "2.jpg")), NAMES, "the file_name of 1 of 4 records .*zz.jpg"),
        (found((9, 8, 7, 6), ("p/1.jpg", "q/1.jpg", "3.jpg", "2.jpg")), NAMES, r"file_name of 2 of 4 .*p/1.jpg, q/1.j"),
        (found((9, 8, 7, 6), ("1.jpg", "1.jpg", "2.jpg", "2.jpg")), ("a/1.jpg", "b/1.jpg", "2.jpg", "3.jpg"), "2 of 4"),
        (found((1, 2, 3, 77)), NAMES, r"image_id of 1 of 4 records is not in .*\(77 ..\): were they"),
        (found((1, 2, 3, True)), NAMES, r"got True \(1 of 4 records is wrong\)$"),
        (found(("p/1.jpg", 2, 3, 4)), ("1.jpg", "b", "c", "d"), r"\(p/1.jpg ..\): were they"),
        (
            found(("1.jpg", "x/1.jpg", "b/3", "2")),
            SAME,
            r"2 of 4 records is .* \(1.jpg: a/1.jpg and b/1.jpg\): write it",
        ),
        (found(("x/4.png", "1.png", "3.png", "2.png")), NAMES, r"but all are .* \(x/4.png is 4.jpg there\): write"),
        (found(("4.png", "1.png", "3.png", "5.png")), NAMES, r"5.png ..\): were they made"),
    ],
)
def test_images_that_cannot_be_told_are_refused(score, results, names, message):
    with pytest.raises(ValueError, match=message):
        score(results, truth(names))


def test_ids_without_names_are_read_once(tmp_path, monkeypatch):
    """The usual case has no pass of its own over the file."""
    (tmp_path / "truth.json").write_text(json.dumps(truth(("0001.jpg", "0002.jpg", "0003.jpg", "0004.jpg"))))
    (tmp_path / "results.json").write_text(json.dumps(found((1, 2, 3, 4))))
    monkeypatch.setattr("tailseg.evaluation.detections.count_references", lambda *_: pytest.fail("read twice"))

    read = read_detections(
        tmp_path / "results.json", read_ground_truth(tmp_path / "truth.json", masks=False), ("bbox",)
    )

    assert read.image_ids.tolist() == [1, 2, 3, 4]


def test_a_clash_in_a_file_without_objects_is_said(score):
    figure, notes = score(found((4, 1, 3, 2)), {**truth(), "annotations": []})

    assert figure is None
    assert any(
        "taken as ids; 0 of 4 detections lie on an object in this way, 0 in the other way" in note for note in notes
    )


def test_no_records_mean_no_image(score):
    assert score([], truth())[0] == 0


def test_names_in_packed_results_are_found(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(truth()))
    packed = tmp_path / "results.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(found((7, 8, 9, 10), NAMES)).encode()))

    assert evaluate(tmp_path / "truth.json", packed, iou_types=("bbox",))["bbox"]["AP"] == pytest.approx(1)
