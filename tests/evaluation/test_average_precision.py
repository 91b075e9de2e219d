"""evaluate: hand-made cases whose score is known, and every kind of input that must not pass in silence."""

import json

import pytest
from pycocotools import mask as run_lengths

from tailseg.evaluation import analyze, evaluate

# Two images of 40 x 60; class 3 (rare) has two squares of 10, class 7 (frequent) one, class 9 (common) none.
SQUARES = [(1, 3, 5, 5), (2, 3, 20, 10), (2, 7, 40, 25)]


def square(x, y, size=10):
    """Run lengths of a square in an image of height 40 and width 60, columns first."""
    counts = [x * 40 + y, size, *([40 - size, size] * (size - 1)), 40 - y - size + (60 - x - size) * 40]
    return {"size": [40, 60], "counts": counts}


def coco():
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (1, 2)],
        "categories": [{"id": 9, "name": "gnu"}, {"id": 3, "name": "ant"}, {"id": 7, "name": "bee"}],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [x, y, 10, 10],
                "area": 100,
                "iscrowd": 0,
                "segmentation": [[x, y, x + 10, y, x + 10, y + 10, x, y + 10]],
            }
            for number, (image, category, x, y) in enumerate(SQUARES, start=1)
        ],
    }


def lvis():
    data = coco()
    for image in data["images"]:
        image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    for category in data["categories"]:
        category["frequency"] = {3: "r", 7: "f", 9: "c"}[category["id"]]
    return data


def record(image=1, category=3, x=5, y=5, score=0.9, size=10):
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [float(x), float(y), float(size), float(size)],
        "score": score,
        "segmentation": square(x, y, size),
    }


PERFECT = [record(*place) for place in SQUARES]


@pytest.fixture
def write(tmp_path):
    def write(data, name="truth.json"):
        path = tmp_path / name
        path.write_text(json.dumps(data))
        return path

    return write


@pytest.mark.parametrize("kind", [coco, lvis])
def test_perfect_results_score_one_and_nothing_is_printed(write, capfd, kind):
    metrics = evaluate(write(kind()), PERFECT)

    for iou_type in ("bbox", "segm"):
        assert metrics[iou_type]["AP"] == pytest.approx(1)
        assert metrics[iou_type]["AR"] == pytest.approx(1)
    assert metrics.notes == ()
    assert (metrics.num_images, metrics.num_detections) == (2, 3)
    assert capfd.readouterr() == ("", "")


def test_a_group_without_objects_has_no_score_rather_than_minus_one(write):
    scores = evaluate(write(lvis()), PERFECT)["segm"]

    assert scores["APr"] == pytest.approx(1)
    assert scores["APf"] == pytest.approx(1)
    assert scores["APc"] is None, "class 9 has no object"
    assert scores["APl"] is None, "all objects are small"


def test_groups_of_a_coco_file_are_given_by_category_id(write):
    half = PERFECT[:1] + PERFECT[2:]  # one of the two ants is missed: precision 1 up to recall 0.5, 51 of 101 points

    metrics = evaluate(write(coco()), half, groups={3: "r", 7: "f", 9: "c"})

    assert metrics["segm"]["APr"] == pytest.approx(51 / 101)
    assert metrics["segm"]["APf"] == pytest.approx(1)
    assert metrics["segm"]["AP50f"] == pytest.approx(1)
    assert metrics["segm"]["APc"] is None
    assert [entry.name for entry in metrics.per_class["segm"]] == ["ant", "bee", "gnu"]
    assert [entry.num_objects for entry in metrics.per_class["segm"]] == [2, 1, 0]
    assert [entry.group for entry in metrics.per_class["segm"]] == ["r", "f", "c"]
    assert pytest.approx(0.5) == metrics.per_class["segm"][0].AR
    assert metrics.per_class["segm"][2].AP is None


@pytest.mark.parametrize("kind", [coco, lvis])
def test_no_detections_at_all_score_zero(write, kind):
    metrics = evaluate(write(kind()), [])

    assert metrics["bbox"]["AP"] == metrics["segm"]["AP"] == metrics["segm"]["AR"] == 0
    assert metrics.notes == ("no detections at all: everything scores 0",)


def test_a_file_without_objects_has_no_scores(write):
    empty = coco() | {"annotations": []}

    analysis = analyze(write(empty), {"bbox": PERFECT, "segm": PERFECT})

    assert analysis.metrics["segm"]["AP"] is None
    assert analysis.errors["segm"].parts["all"].counts["background"] == 3


def test_results_may_be_a_file_and_boxes_alone_need_no_masks(write):
    boxes = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in PERFECT]

    metrics = evaluate(str(write(coco())), write(boxes, "results.json"), iou_types=("bbox",))

    assert metrics["bbox"]["AP"] == pytest.approx(1)
    assert "segm" not in metrics
    with pytest.raises(KeyError, match="no scores for 'segm', only for bbox"):
        metrics["segm"]


def test_masks_alone_need_no_boxes(write):
    masks = [{key: value for key, value in entry.items() if key != "bbox"} for entry in PERFECT]

    assert evaluate(write(lvis()), masks, iou_types=("segm",))["segm"]["AP"] == pytest.approx(1)


class TestFederation:
    """LVIS: a class counts in an image if it was looked for there."""

    def test_false_positives_count_only_where_the_class_was_looked_for(self, write):
        data = lvis()
        wrong = [*PERFECT, record(1, 7, 30, 20, score=0.99)]  # a bee in image 1
        assert evaluate(write(data), wrong)["bbox"]["APf"] == pytest.approx(1), "nobody looked for bees in image 1"

        data["images"][0]["neg_category_ids"] = [7]
        assert evaluate(write(data), wrong)["bbox"]["APf"] == pytest.approx(0.5), "there is none: precision 1/2"

    def test_unmatched_detections_of_a_class_not_exhaustively_annotated_are_left_alone(self, write):
        data = lvis()
        wrong = [*PERFECT, record(2, 7, 5, 5, score=0.99)]  # a second bee in image 2
        assert evaluate(write(data), wrong)["bbox"]["APf"] == pytest.approx(0.5)

        data["images"][1]["not_exhaustive_category_ids"] = [7]
        assert evaluate(write(data), wrong)["bbox"]["APf"] == pytest.approx(1)

    def test_a_coco_file_counts_every_false_positive(self, write):
        wrong = [*PERFECT, record(1, 7, 30, 20, score=0.99)]

        assert evaluate(write(coco()), wrong, groups={7: "f"})["bbox"]["APf"] == pytest.approx(0.5)


@pytest.mark.parametrize("kind", [coco, lvis])
@pytest.mark.parametrize("mark", ["iscrowd", "ignore"])
def test_crowds_and_ignored_objects_are_left_alone(write, kind, mark):
    data = kind()
    data["annotations"][0][mark] = 1
    inside = [record(1, 3, 5 + shift, 5 + shift, 0.99, size=6) for shift in (0, 2, 4)]  # three in the crowd of image 1

    metrics = evaluate(write(data), PERFECT[1:] + inside)

    assert metrics["segm"]["AP"] == pytest.approx(1), "neither the missed object nor the three inside it count"
    assert metrics.per_class["segm"][0].num_objects == 1
    expected = (
        () if mark == "iscrowd" else ("1 object is marked 'ignore': treated as crowd regions (annotation 1 (image 1))",)
    )
    assert metrics.notes == expected


def test_ids_of_annotations_do_not_matter(write):
    # An object with id 0 counts as never matched in pycocotools and lvis-api; repeated ids hide objects.
    data = coco()
    for index, annotation in enumerate(data["annotations"]):
        annotation["id"] = index // 2

    assert evaluate(write(data), PERFECT)["segm"]["AP"] == pytest.approx(1)


def test_missing_areas_are_taken_from_the_boxes_and_mentioned(write):
    data = coco()
    del data["annotations"][0]["area"]
    data["annotations"][1]["area"] = None

    metrics = evaluate(write(data), PERFECT)

    assert metrics["bbox"]["APs"] == pytest.approx(1)
    (note,) = metrics.notes
    assert note.startswith("2 objects have no 'area': the area of the box is used")


def test_repeated_records_are_counted(write):
    metrics = evaluate(write(coco()), PERFECT + PERFECT[:2])

    assert metrics.notes == ("2 records repeat another one exactly, and count as false: were images tested twice?",)


def test_same_box_and_score_with_another_mask_is_no_repetition(write):
    other = PERFECT[0] | {"segmentation": square(6, 6)}

    assert evaluate(write(coco()), [*PERFECT, other]).notes == ()


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [5.0, NAN, 10.0, 10.0]}, r"'bbox' of record 1 should be .* finite .* got \[5.0, nan"),
        ({"bbox": [5.0, 5.0, -1.0, 10.0]}, "'bbox' of record 1 should be .* not negative"),
        ({"bbox": [5.0, 5.0, 10.0]}, "'bbox' of record 1 should be .x, y, width, height."),
        ({"bbox": None}, "'bbox' of record 1 .* got None"),
        ({"score": NAN}, "'score' of record 1 should be a finite number, got nan"),
        ({"score": "0.9"}, "'score' of record 1 should be a finite number, got '0.9'"),
        ({"image_id": "one"}, "'image_id' of record 1 should be a whole number, got 'one'"),
        ({"image_id": "01"}, "'image_id' of record 1 should be a whole number, got '01'"),
        ({"image_id": 1.5}, "'image_id' of record 1 should be a whole number, got 1.5"),
        ({"image_id": True}, "'image_id' of record 1 should be a whole number, got True"),
        ({"category_id": True}, "'category_id' of record 1 should be a whole number, got True"),
        ({"score": True}, "'score' of record 1 should be a finite number, got True"),
        ({"bbox": b"1234"}, "'bbox' of record 1 should be"),
        ({"image_id": 2**63}, "'image_id' of record 1 should be a whole number, got 9223372036854775808"),
        ({"category_id": 10**30}, "'category_id' of record 1 should be a whole number, got 10000"),
        (
            {"image_id": 77},
            r"image_id of 1 of 3 records is not in .* \(77 ..\): were they made for another",
        ),
        ({"category_id": 0}, r"category_id of 1 of 3 .*\(0 ..\): use the category ids of that file, not labels"),
        (
            {"segmentation": square(5, 5) | {"size": [60, 40]}},
            r"record 1 has size .*\[60, 40\], but image 2 is \[40, 60\]",
        ),
        ({"segmentation": {"size": [40, 60], "counts": [5000]}}, "the run lengths of record 1 are broken"),
        ({"segmentation": {"size": [40, 60], "counts": [-5, 2405]}}, "the run lengths of record 1 are broken"),
        ({"segmentation": {"size": [-40, 60], "counts": [2400]}}, "the run lengths of record 1 are broken"),
        ({"segmentation": {"size": [40, 2**40], "counts": [2400]}}, "the run lengths of record 1 are broken"),
        ({"segmentation": [[0, 0, 9, 9]]}, "'segmentation' of record 1 should be run lengths .* or polygons"),
        ({"segmentation": None}, "'segmentation' of record 1 should be run lengths"),
    ],
)
def test_a_wrong_record_is_named(write, change, message):
    results = [PERFECT[0], PERFECT[1] | change, PERFECT[2]]

    with pytest.raises(ValueError, match=message):
        evaluate(write(lvis()), results)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("a/one.jpg", "b/two.jpg"), ("one", "two")),
        (("000007.jpg", "000008.jpg"), ("000007", "000008")),
        (("000007.jpg", "000008.jpg"), (7, 8)),
        (("000002.jpg", "000003.jpg"), (2, 3)),
        (("000002.jpg", "two.jpg"), (2, "two")),
    ],
)
def test_results_may_call_images_by_their_files(write, files, names):
    """As ultralytics does, which makes a number of a name of digits."""
    data = coco()
    for image, file in zip(data["images"], files, strict=True):
        image["file_name"] = file
    results = [entry | {"image_id": names[entry["image_id"] - 1]} for entry in PERFECT]

    assert evaluate(write(data), results)["segm"]["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("files", "names"), [(("a/x.jpg", "b/x.jpg"), ("x", "x")), (("one.jpg", "two.jpg"), ("one", 2))]
)
def test_a_name_that_could_mean_another_image_is_refused(write, files, names):
    data = coco()
    for image, file in zip(data["images"], files, strict=True):
        image["file_name"] = file
    results = [entry | {"image_id": names[entry["image_id"] - 1]} for entry in PERFECT]

    with pytest.raises(ValueError, match="'image_id' of record 0 should be a whole number"):
        evaluate(write(data), results)


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize("spell", [str, float])
@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_ids_that_mean_whole_numbers_are_taken_and_counted(write, key, spell, as_file):
    results = [*PERFECT[:1], *(entry | {key: spell(entry[key])} for entry in PERFECT[1:])]

    metrics = evaluate(write(coco()), write(results, "results.json") if as_file else results)

    assert metrics["segm"]["AP"] == pytest.approx(1)
    (note,) = metrics.notes
    assert f'2 values of {key!r} are written as 1.0 or "1": taken as whole numbers' in note


def test_polygons_in_results_score_as_their_run_lengths(write):
    data = coco()
    polygons = [
        entry | {"segmentation": [[x + 0.3, y, x + 9.0, y + 0.5, x + 10.6, y + 9.7, x - 0.8, y + 8.2]]}
        for entry, (_, _, x, y) in zip(PERFECT, SQUARES, strict=True)
    ]
    masks = [entry | {"segmentation": run_lengths.frPyObjects(entry["segmentation"], 40, 60)[0]} for entry in polygons]

    scores = evaluate(write(data), polygons)["segm"]

    assert scores == evaluate(write(data), masks)["segm"]
    assert scores["AP50"] == pytest.approx(1)
    assert 0 < scores["AP"] < 1


def test_polygons_want_the_size_of_their_image(write):
    data = coco()
    del data["images"][0]["height"]
    polygons = [PERFECT[0] | {"segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}]

    with pytest.raises(ValueError, match=r"1 image with polygons has no height or no width: image 1"):
        evaluate(write(data), polygons)


def test_a_missing_field_is_named_with_a_count(write):
    results = [PERFECT[0], {"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}, "nonsense"]

    with pytest.raises(ValueError, match=r"'image_id' of record 2 .* the record is 'nonsense' \(1 of 3 records"):
        evaluate(write(lvis()), write(results, "results.json"))
    with pytest.raises(ValueError, match=r"'score' of record 1 .* it is missing \(1 of 2 records"):
        evaluate(write(lvis()), results[:2])


def test_results_of_a_detector_without_masks_say_how_to_score_boxes(write):
    boxes = [{key: value for key, value in entry.items() if key != "segmentation"} for entry in PERFECT]

    with pytest.raises(ValueError, match=r"no record has any; to score boxes alone, ask for iou_types=\('bbox',\)"):
        evaluate(write(lvis()), boxes, iou_types=("bbox", "segm"))


def broken(change, kind=lvis):
    data = kind()
    change(data)
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["no", "object"], "is not in COCO format: expected the lists .* found a list at the top"),
        (broken(lambda d: d.pop("images")), "is not in COCO format: expected the lists images"),
        (broken(lambda d: d["images"].clear()), "empty data set: its list images has no entry"),
        (broken(lambda d: d["images"][1].update(id=1)), r"1 image id occurs more than once: image 1 \(2 times\)"),
        (
            broken(lambda d: d["images"][1].pop("neg_category_ids")),
            r"1 image of an LVIS file lacks one of the lists .*: image 2\. Use the original LVIS file; or write \[\]",
        ),
        (
            broken(lambda d: [image.pop("not_exhaustive_category_ids") for image in d["images"]]),
            "2 images of an LVIS file lack one of the lists .* and not_exhaustive_category_ids: image 1; image 2",
        ),
        (
            broken(lambda d: d["categories"][0].pop("frequency")),
            r"1 category has no frequency of 'r', 'c' or 'f' .*: category 9 has None.* \(--train\)",
        ),
        (
            broken(lambda d: d["annotations"][0].update(image_id=5)),
            "1 annotation belongs to an unknown image: annotation 1 has image_id 5",
        ),
        (
            broken(lambda d: d["annotations"][0].update(category_id=5)),
            "1 annotation belongs to an unknown category: annotation 1 has category_id 5",
        ),
        (broken(lambda d: d["annotations"][0].update(bbox=None, segmentation=None)), "1 box is not four numbers"),
        (broken(lambda d: d["annotations"][0].update(bbox=[1, 2, 3])), r"1 box is not four .* has \[1, 2, 3\]"),
        (broken(lambda d: d["annotations"][0].update(bbox=[1, 2, 10**400, 4], area=None)), "Write bbox as .x, y"),
        (
            broken(lambda d: d["annotations"][0].update(bbox=[1, 2, "9", 10**12], area=None)),
            r"1 box is not four numbers: .* has \[1, 2, '9'",
        ),
        (
            broken(lambda d: d["annotations"][0].update(bbox=[1, 2, -3, 4])),
            r"negative width or height: annotation 1 \(image 1\) has \[1, 2, -3, 4\]",
        ),
        (broken(lambda d: d["annotations"][0].update(bbox=[1, 2, NAN, 4])), "1 box has NaN or infinite numbers"),
        (
            broken(lambda d: d["annotations"][0].pop("segmentation")),
            r"no mask \(1 of 3\): annotation 1 .*\('bbox',\)",
        ),
        (broken(lambda d: d["annotations"][0].update(segmentation=[[1, 1, 5, 5]])), "fewer than three points"),
        (
            broken(lambda d: d["annotations"][0].update(segmentation=[[1, 1, 5, 5, 9, 10**400]])),
            "neither polygons nor run lengths",
        ),
        (
            broken(lambda d: d["annotations"][0].update(segmentation={"size": [60, 40], "counts": [2400]})),
            r"annotation 1 \(image 1\): size is \[60, 40\], the image's .* is \[40, 60\]",
        ),
        (
            broken(lambda d: d["annotations"][0].update(segmentation={"size": [40, 60], "counts": [5, -5]})),
            "mask of run lengths does not fit its image: .*must be 2,400 pixels",
        ),
        (broken(lambda d: d["annotations"][0].update(area="100")), "area is not a finite number: .* has '100'"),
        (broken(lambda d: d["annotations"][0].update(image_id=[1])), r"unknown image: annotation 1 has image_id \[1\]"),
        (broken(lambda d: d["annotations"][0].update(iscrowd="0")), "neither 0 nor 1: .* has '0' and None"),
        (broken(lambda d: d["images"][0].update(id=[1])), "1 image record has no integer id: number 0"),
        (broken(lambda d: d["categories"][0].update(id=2**63)), "1 category record has no integer id: number 0"),
        (
            broken(lambda d: d["images"][0].update(height="40")),
            "image has a height or a width that is not a number of pixels: image 1 has height '40'",
        ),
        (
            broken(lambda d: d["images"][0].update(neg_category_ids=[[3]])),
            r"something other than ids .*: image 1 has \[3\]",
        ),
    ],
)
def test_a_wrong_annotation_file_is_named(write, data, message):
    path = write(data)

    with pytest.raises(ValueError, match=message) as error:
        evaluate(path, PERFECT)
    assert str(path) in str(error.value)


def test_a_name_that_no_file_can_hold_is_shown_as_far_as_it_can(write):
    """JSON can escape half a surrogate pair, which cannot be written as UTF-8."""
    metrics = evaluate(write(broken(lambda d: d["categories"][0].update(name="ant\ud800"))), PERFECT)

    assert "ant?" in {entry.name for entry in metrics.per_class["bbox"]}


@pytest.mark.parametrize("groups", [None, {3: "r"}])
def test_a_file_with_frequency_but_no_lists_is_scored_as_coco(write, groups):
    data = broken(lambda d: [c.update(frequency="r") for c in d["categories"]], coco)

    metrics = evaluate(write(data), PERFECT, groups=groups)

    assert {entry.group for entry in metrics.per_class["bbox"]} == ({"r"} if groups is None else {"r", None})

    assert metrics.protocol == "coco"
    assert "evaluated by COCO's rules; the result cannot be compared with LVIS AP" in metrics.notes[0]


def test_missing_and_unreadable_files_are_named(write, tmp_path):
    truth = write(coco())
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nowhere\.json"):
        evaluate(tmp_path / "nowhere.json", PERFECT)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*results\.json"):
        evaluate(truth, tmp_path / "results.json")
    (tmp_path / "cut.json").write_text(json.dumps(PERFECT)[:-20])
    with pytest.raises(ValueError, match=r"cut.json cannot be read as JSON"):
        evaluate(truth, tmp_path / "cut.json")
    with pytest.raises(ValueError, match="expected a list of result records, got dict"):
        evaluate(truth, write({"results": []}, "dict.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_types": ()}, "iou_types is a tuple that names"),
        ({"max_detections": 0}, "max_detections should be at least 1, got 0"),
        ({"groups": {0: "r", 1: "f"}}, r"groups= names categories that .* lacks: 0, 1; its keys are category ids"),
    ],
)
def test_wrong_options_are_refused(write, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(write(coco()), PERFECT, **options)
