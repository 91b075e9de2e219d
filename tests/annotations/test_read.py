"""Reading annotation files: what is understood, what is repaired, what is refused and how."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import judge, open_file, read_dataset
from tailseg.ops.masks import decode_mask, segmentation_to_rle

RawDataset = dict[str, Any]
Write = Callable[..., Path]


def test_labels_follow_the_categories_ordered_by_id(raw: RawDataset, write: Write) -> None:
    annotations = read_dataset(write(raw))
    assert [(c.id, c.name) for c in annotations.categories] == [(3, "three"), (7, "seven")]
    assert annotations.format == "coco"
    assert annotations.num_images == 2
    assert annotations.image_ids.tolist() == [20, 10]
    assert annotations.get_record(0).labels.tolist() == [0]
    assert annotations.get_record(1).labels.tolist() == [1, 0]
    assert annotations.get_record(1).annotation_ids.tolist() == [1, 3]
    assert annotations.get_labels(1).tolist() == [0, 1]


def test_boxes_and_polygons_are_those_of_the_file(raw: RawDataset, write: Write) -> None:
    record = read_dataset(write(raw)).get_record(0)
    assert record.boxes.tolist() == [[10, 5, 30, 25]]
    (polygons,) = record.segmentations
    assert polygons[0].tolist() == [[10, 5], [30, 5], [30, 25], [10, 25]]


def test_frequencies_are_counted_with_groups_from_the_counts(many: RawDataset, write: Write) -> None:
    many["images"].append({**many["images"][0], "id": 99})
    frequency = read_dataset(write(many)).frequency
    assert frequency.image_counts.tolist() == [11, 1]
    assert frequency.instance_counts.tolist() == [11, 1]
    assert frequency.num_images == 12, "the image without annotations does not count"
    assert frequency.groups == ("c", "r")


def test_a_validation_set_takes_its_groups_and_frequencies_from_the_training_set(
    raw: RawDataset, many: RawDataset, write: Write
) -> None:
    train = read_dataset(write(many, name="train.json"))
    val = read_dataset(write(raw, name="val.json"), frequency_from=train)
    assert [c.group for c in val.categories] == ["c", "r"]
    assert val.frequency is train.frequency


def test_groups_that_the_file_states_win(raw: RawDataset, many: RawDataset, write: Write) -> None:
    train = read_dataset(write(many, name="train.json"))
    for category in raw["categories"]:
        category["frequency"] = "f"
    val = read_dataset(write(raw, name="val.json"), frequency_from=train)
    assert [c.group for c in val.categories] == ["f", "f"]


def test_run_lengths_list_or_compressed_and_polygons_agree(raw: RawDataset, write: Write) -> None:
    compressed = coco_mask.frPyObjects([raw["annotations"][0]["segmentation"][0]], 36, 48)[0]
    bitmap = coco_mask.decode(compressed)
    changes = np.flatnonzero(np.diff(bitmap.ravel(order="F"), prepend=0))
    counts = np.diff([0, *changes, bitmap.size]).tolist()
    raw["annotations"][1]["segmentation"] = {"size": [36, 48], "counts": compressed["counts"].decode()}
    raw["annotations"][2]["segmentation"] = {"size": [36, 48], "counts": counts}
    annotations = read_dataset(write(raw))
    masks = [*annotations.get_record(0).segmentations, *annotations.get_record(1).segmentations]
    assert len(masks) == 3
    for mask in masks:
        np.testing.assert_array_equal(decode_mask(segmentation_to_rle(mask, 36, 48)), bitmap.astype(bool))
    assert annotations.has_masks


def test_crowd_and_ignore_regions_are_no_objects(raw: RawDataset, write: Write) -> None:
    raw["annotations"][0].update(iscrowd=1, segmentation={"size": [36, 48], "counts": [100, 28, 1600]})
    raw["annotations"][1]["ignore"] = 1
    annotations = read_dataset(write(raw))
    record = annotations.get_record(1)
    assert record.labels.tolist() == [0]
    assert record.ignore_boxes.tolist() == [[10, 5, 30, 25]]
    assert annotations.frequency.instance_counts.tolist() == [1, 0]
    assert annotations.get_labels(0).tolist() == []
    assert len(annotations.get_record(0)) == 0


def test_crowds_taken_as_objects_need_what_objects_need(raw: RawDataset, write: Write) -> None:
    raw["annotations"][0].update(iscrowd=1, segmentation=None)
    raw["annotations"][1].update(iscrowd=1, segmentation=[[10, 5, 10.2, 5, 10.2, 25, 10, 25]])
    path = write(raw)
    with pytest.raises(DatasetError, match=r"1 crowd or ignore region has no mask.*: annotation 1"):
        read_dataset(path, use="training_masks", crowds="objects")
    annotations = judge(open_file(path), ["training_masks"], crowds="objects", on_problem="repair")
    assert "annotation 1 (image 10): left out" in annotations.notes[0]
    assert annotations.has_masks
    assert annotations.get_record(0).segmentations == ((),)  # of no pixel
    assert annotations.get_record(1).annotation_ids.tolist() == [3]


def test_objects_of_an_image_are_in_the_order_of_the_file(raw: RawDataset, write: Write) -> None:
    one, other = raw["annotations"][0], raw["annotations"][1]
    raw["annotations"] = [{**(one, other)[i % 2], "id": 7 * i % 1000} for i in range(1000)]
    annotations = read_dataset(write(raw))
    assert [annotations.get_record(image).annotation_ids.tolist() for image in (1, 0)] == [
        [7 * i % 1000 for i in range(start, 1000, 2)] for start in (0, 1)
    ]


@pytest.mark.parametrize("crowd", [0, 1])
def test_one_object_without_a_mask_is_enough_to_have_none(crowd: int, raw: RawDataset, write: Write) -> None:
    """A crowd needs none."""
    raw["annotations"][1].update(segmentation=[], iscrowd=crowd)
    assert read_dataset(write(raw)).has_masks == bool(crowd)


def test_boxes_only(raw: RawDataset, write: Write) -> None:
    for annotation in raw["annotations"]:
        del annotation["segmentation"]
    annotations = read_dataset(write(raw))
    assert not annotations.has_masks
    assert annotations.get_record(0).segmentations[0][0].tolist() == [[10, 5], [30, 5], [30, 25], [10, 25]]


def test_lvis_v1_lists_reach_the_record_and_images_are_named_by_coco_url(raw: RawDataset, write: Write) -> None:
    for image in raw["images"]:
        del image["file_name"]
        image.update(
            coco_url=f"http://images.cocodataset.org/train2017/{image['id']:012}.jpg",
            neg_category_ids=[7],
            not_exhaustive_category_ids=[3],
        )
    for category in raw["categories"]:
        category["frequency"] = "c"
    annotations = read_dataset(write(raw))
    assert annotations.format == "lvis"
    assert annotations.get_record(1).negative_ids == (7,)
    assert annotations.get_record(1).not_exhaustive_ids == (3,)
    assert annotations.names.text(1).split("\n") == ["train2017/000000000010.jpg", "000000000010.jpg"]


def test_official_lvis_v05(shared: Path) -> None:
    path = shared / "data/lvis/lvis_v0.5_val_100.json"
    annotations = read_dataset(path)
    raw = json.loads(path.read_text())
    assert annotations.format == "lvis"
    assert (annotations.num_images, annotations.num_objects, annotations.num_classes) == (100, 977, 1230)
    assert annotations.notes == ()
    assert annotations.frequency.groups == tuple(c["frequency"] for c in raw["categories"])
    for i, image in enumerate(raw["images"]):
        record = annotations.get_record(i)
        assert list(record.negative_ids) == image["neg_category_ids"]
        assert list(record.not_exhaustive_ids) == image["not_exhaustive_category_ids"]


def test_every_object_of_a_coco_file_is_what_pycocotools_reads(shared: Path) -> None:
    path = shared / "data/coco_tail/val.json"
    annotations, reference = read_dataset(path), COCO(str(path))
    for i, image_id in enumerate(annotations.image_ids.tolist()):
        record, info = annotations.get_record(i), reference.imgs[image_id]
        expected = reference.loadAnns(reference.getAnnIds(image_id, iscrowd=False))
        assert record.annotation_ids.tolist() == [a["id"] for a in expected]
        assert [annotations.categories[label].id for label in record.labels] == [a["category_id"] for a in expected]
        boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in expected)]).reshape(-1, 4)
        np.testing.assert_allclose(record.boxes, boxes, atol=1e-4)  # float32 holds 1e-4 at 640
        for mask, annotation in zip(record.segmentations, expected, strict=True):
            ours = decode_mask(segmentation_to_rle(mask, info["height"], info["width"]))
            np.testing.assert_array_equal(ours, reference.annToMask(annotation).astype(bool))
        assert len(record.ignore_boxes) == len(reference.getAnnIds(image_id, iscrowd=True))


def test_boxes_slightly_beyond_the_image_are_clipped_and_counted(raw: RawDataset, write: Write) -> None:
    raw["annotations"][1]["bbox"] = [-1.5, 5, 50.5, 31.5]
    with pytest.warns(UserWarning, match=r"1 box reaches 1\.5 pixels beyond its image: clipped"):
        annotations = read_dataset(write(raw))
    assert annotations.get_record(0).boxes.tolist() == [[0, 5, 48, 36]]
    assert len(annotations.notes) == 1


def test_how_far_boxes_reach_is_written_in_full(raw: RawDataset, write: Write) -> None:
    raw["annotations"][1]["bbox"] = [10, 5, 1268, 20]
    with pytest.warns(UserWarning, match=r"1 box reaches 1,230 pixels beyond its image: clipped"):
        read_dataset(write(raw))


def test_areas_of_boxes_alone_have_a_remedy(raw: RawDataset, write: Write) -> None:
    """There is no mask whose pixels could be written."""
    for annotation in raw["annotations"]:
        annotation.update(segmentation=[], area=36 * 48)
    problems = {problem.kind.name: problem for problem in open_file(write(raw)).problems}
    assert "in a file of boxes, write width * height" in problems["area_large"].remedy
    assert problems["area_large"].kind.done == "used unchanged"


def test_objects_below_a_pixel_are_kept_but_not_trained_on(raw: RawDataset, write: Write) -> None:
    raw["annotations"][1].update(bbox=[10, 5, 0, 20], area=0)
    with pytest.warns(UserWarning, match="1 object is less than one pixel"):
        annotations = read_dataset(write(raw))
    assert len(annotations.get_record(0)) == 1
    assert annotations.objects.trainable.tolist() == [False, True, True]


def _set(*keys: str | int, to: object) -> Callable[[RawDataset], None]:
    def change(raw: Any) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        raw[keys[-1]] = to

    return change


def _drop(*keys: str | int) -> Callable[[RawDataset], None]:
    def change(raw: Any) -> None:
        for key in keys[:-1]:
            raw = raw[key]
        del raw[keys[-1]]

    return change


ANNOTATION = r"annotation 2 \(image 20\) has "
BAD = {
    "no images": (_set("images", to=[]), r"empty data set: its list images .*Check that the export"),
    "no annotations": (
        _set("annotations", to=[]),
        r"the data set is empty: its list annotations has no entry\. Check",
    ),
    "no categories": (_set("categories", to=[]), r"empty data set: its list categories"),
    "a section missing": (_drop("categories"), r"not in COCO format: .*found \['images', 'annotations'\]\. Export"),
    "unknown image": (
        _set("annotations", 1, "image_id", to=99),
        r"1 annotation belongs to an unknown image: annotation 2 has image_id 99\. Add the image, or remove",
    ),
    "unknown category": (
        _set("annotations", 1, "category_id", to=4),
        r"1 annotation belongs to an unknown category: annotation 2 has category_id 4\. Add the category, or remove",
    ),
    "no image id": (_drop("annotations", 1, "image_id"), r"annotation 2 has image_id None"),
    "an id that cannot be looked up": (_set("annotations", 1, "category_id", to=[3]), r"category_id \[3\]"),
    "NaN in a box": (
        _set("annotations", 1, "bbox", to=[10, math.nan, 20, 20]),
        rf"1 box has NaN or infinite numbers: {ANNOTATION}\[10, nan, 20, 20\], .*Correct or remove",
    ),
    "infinite box": (_set("annotations", 1, "bbox", to=[10, 5, math.inf, 20]), r"box has NaN or infinite"),
    "negative width": (
        _set("annotations", 1, "bbox", to=[30, 5, -20, 20]),
        (
            rf"1 box has a negative width or height: {ANNOTATION}\[30, 5, -20, 20\].*"
            r"Write bbox as \[x, y, width, height\]"
        ),
    ),
    "box out of the image": (
        _set("annotations", 1, "bbox", to=[48, 5, 30, 20]),
        rf"1 box lies outside its image: {ANNOTATION}\[48, 5, 30, 20\], its image is 48 x 36",
    ),
    "box before the image": (_set("annotations", 1, "bbox", to=[-60, 5, 20, 20]), r"1 box lies outside its image"),
    "three numbers": (_set("annotations", 1, "bbox", to=[1, 2, 3]), r"1 box is not four numbers"),
    "text in a box": (_set("annotations", 1, "bbox", to=["1", 2, 3, 4]), r"1 box is not four numbers"),
    "no box": (
        lambda raw: raw["annotations"][1].update(bbox=None, segmentation=[]),
        rf"1 box is not four numbers: {ANNOTATION}None",
    ),
    "polygon of two points": (
        _set("annotations", 1, "segmentation", to=[[10, 5, 30, 25]]),
        rf"1 polygon has fewer than three points.*: {ANNOTATION}one of 4 numbers\. .*remove the polygon",
    ),
    "odd polygon": (
        _set("annotations", 1, "segmentation", to=[[10, 5, 30, 25, 10, 20, 30]]),
        rf"odd number of coordinates: {ANNOTATION}one of 7 numbers",
    ),
    "NaN in a polygon": (
        _set("annotations", 1, "segmentation", to=[[10, 5, 30, math.nan, 10, 20]]),
        r"1 object has a polygon with coordinates that are not finite.*: annotation 2 \(image 20\)\. Correct",
    ),
    "far polygon": (_set("annotations", 1, "segmentation", to=[[10, 5, 30, 97, 10, 20]]), r"far outside the image"),
    "far polygon before": (
        _set("annotations", 1, "segmentation", to=[[10, 5, -97, 5, 10, 20]]),
        r"far outside the image",
    ),
    "points as pairs": (
        _set("annotations", 1, "segmentation", to=[[[10, 5], [30, 5], [30, 25]]]),
        r"neither polygons nor run lengths.*Expected \[\[x1, y1",
    ),
    "run lengths of another size": (
        _set("annotations", 1, "segmentation", to={"size": [48, 36], "counts": [1728]}),
        r"size is \[48, 36\], the image's \[height, width\] is \[36, 48\]\. Encode",
    ),
    "run lengths too short": (
        _set("annotations", 1, "segmentation", to={"size": [36, 48], "counts": [100, 28]}),
        r"sum of counts must be 1,728 pixels",
    ),
    "negative run lengths": (
        _set("annotations", 1, "segmentation", to={"size": [36, 48], "counts": [1756, -28]}),
        r"sum of counts must be 1,728 pixels",
    ),
    "broken run lengths": (
        _set("annotations", 1, "segmentation", to={"size": [36, 48], "counts": "abc~"}),
        r"counts are malformed",
    ),
    "a crowd in words": (
        _set("annotations", 1, "iscrowd", to="0"),
        rf"1 annotation has an iscrowd or an ignore that is neither 0 nor 1: {ANNOTATION}'0' and None\. Write 1 for",
    ),
    "no counts": (_set("annotations", 1, "segmentation", to={"size": [36, 48]}), r"counts must be a list or a string"),
    "an annotation that is no record": (
        _set("annotations", 1, to=5),
        r"1 annotation is not a JSON object: number 1 is 5\. Remove",
    ),
    "an image id twice": (_set("images", 1, "id", to=20), r"1 image id occurs more than once: image 20"),
    "an image without size": (
        _drop("images", 0, "height"),
        r"does not state the sizes of its images, and image b.jpg not",
    ),
    "a size with a fraction": (_set("images", 0, "height", to=36.5), r"has height 36\.5 and .*width, integers above 0"),
    "a size in words": (_set("images", 0, "height", to="36"), r"has height '36' and"),
    "a negative size": (_set("images", 0, "height", to=-36), r"image 20 has height -36"),
    "an image without a name": (_drop("images", 0, "file_name"), r"has no file_name and no coco_url: image 20"),
    "a path out of the root": (
        _set("images", 0, "file_name", to="../../etc/passwd"),
        r"leads out of the image folder: image 20 has '\.\./\.\./etc/passwd'\. Write names relative",
    ),
    "an absolute path": (_set("images", 0, "file_name", to="/etc/passwd"), r"absolute or leads out"),
    "half the frequencies": (
        _set("categories", 0, "frequency", to="r"),
        r"1 category has no frequency .*: category 3 has None\. State the frequency of all",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_file_record_and_remedy(case: str, raw: RawDataset, write: Write) -> None:
    change, message = BAD[case]
    change(raw)
    path = write(raw)
    with pytest.raises(DatasetError, match=message) as caught:
        read_dataset(path)
    assert str(path) in str(caught.value)


def test_a_number_beyond_all_is_infinite(raw: RawDataset, write: Write) -> None:
    path = write(raw)
    path.write_text(path.read_text().replace("[10.0, 5.0, 20.0, 20.0]", "[10.0, 5.0, 1e400, 20.0]", 1))
    with pytest.raises(DatasetError, match=r"1 box has NaN or infinite numbers: annotation 1 .* 5\.0, inf, 20\.0\]"):
        read_dataset(path)


def test_all_problems_are_told_at_once_and_long_lists_are_cut(many: RawDataset, write: Write) -> None:
    for annotation in many["annotations"]:
        annotation["bbox"] = [0, 0, -1, 5]
        annotation["segmentation"] = [[1, 2, 3, 4]]
    with pytest.raises(DatasetError) as caught:
        read_dataset(write(many))
    message = str(caught.value)
    assert "12 boxes have a negative width" in message
    assert "12 polygons have fewer than three points" in message
    assert "and 9 more" in message
    assert "annotation 2 " in message
    assert "annotation 3 " not in message


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"nothing\.json does not exist\. Expected an annotation file in LVIS or COCO"
    ):
        read_dataset(tmp_path / "nothing.json")
    with pytest.raises(DatasetError, match="is a folder, not a file"):
        read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="is a pipe or a device, not a file"):
        read_dataset(os.devnull)


@pytest.mark.parametrize("content", ["", "{", '{"images": [', "<html>", "\x80"])
def test_not_json(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError, match=r"x\.json is not JSON: .*it may be incomplete or still compressed"):
        read_dataset(path)


@pytest.mark.parametrize("content", ["[]", "3", '{"a": 1}', '{"images": {}, "annotations": [], "categories": []}'])
def test_json_that_is_not_coco(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(
        DatasetError, match=r"x\.json is not in COCO format: expected the lists images, annotations, cat"
    ):
        read_dataset(path)


def test_categories_that_differ_from_the_training_set(raw: RawDataset, many: RawDataset, write: Write) -> None:
    train = read_dataset(write(many, name="train.json"))
    raw["categories"][0]["name"] = "eight"
    with pytest.raises(
        DatasetError,
        match=r"1 category differs from those of the training set .*7 is 'eight' here and 'seven' there.*need the same",
    ):
        read_dataset(write(raw, name="val.json"), frequency_from=train)


def test_the_same_names_with_other_ids_are_told(raw: RawDataset, many: RawDataset, write: Write) -> None:
    """As of a file that numbers its own classes from 1."""
    train = read_dataset(write(many, name="train.json"))
    for category, number in zip(raw["categories"], (1, 2), strict=True):
        for annotation in raw["annotations"]:
            if annotation["category_id"] == category["id"]:
                annotation["category_id"] = number
        category["id"] = number
    with pytest.raises(
        DatasetError, match=r"2 categories differ .* 2 of the names have another id there: give the cat"
    ):
        read_dataset(write(raw, name="val.json"), frequency_from=train)


def test_only_classes_that_stop_it_are_named_where_a_file_has_others(
    raw: RawDataset, many: RawDataset, write: Write
) -> None:
    train = read_dataset(write(many, name="train.json"))
    raw["categories"] += [{"id": 1, "name": "one"}, {"id": 9, "name": "nine"}]
    raw["annotations"][0]["category_id"] = 9
    with pytest.raises(DatasetError, match=r"\n  1 category differs .*: 9 is 'nine' here and missing there\. Both"):
        read_dataset(write(raw, name="val.json"), frequency_from=train)


def test_ids_that_are_no_numbers_are_shown(raw: RawDataset, write: Write) -> None:
    """UUIDs of annotations: numbered above the largest id, and told with their text; of images: refused with it."""
    raw["annotations"][0]["id"] = "8f1c-01"
    raw["annotations"][1]["id"] = "8f1c-02"
    (found,) = open_file(write(raw)).problems
    assert found.text.startswith("2 annotations have an id that is not a 64-bit whole number: annotation number 0 (")
    assert "has '8f1c-01'; annotation number 1 (" in found.text
    assert sorted(open_file(write(raw)).objects.ids.tolist()) == [3, 4, 5]
    raw["images"][0]["id"] = "b7"
    with pytest.raises(DatasetError, match=r"1 image record has no integer id: number 0 has id 'b7'"):
        read_dataset(write(raw))
