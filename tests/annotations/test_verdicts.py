"""One verdict for each file and use: of small changes, of what tools write, and of files of the wild."""

import contextlib
import csv
import io
import json
import re
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO

from tailseg.annotations.kinds import Use
from tailseg.annotations.problems import DatasetError
from tailseg.annotations.read import open_file, read_dataset

from .changes import CHANGES, USES, write_change


def verdict(path: Path, use: Use, images: Path | None) -> str:
    """x refused, n noted, i of interest, - nothing is said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            annotations = read_dataset(path, use=use, images=images)
        except DatasetError:
            return "x"
    assert len(said) == len(annotations.notes)
    return "n" if annotations.notes else "i" if annotations.remarks else "-"


def verdicts(path: Path, images: Path | None) -> str:
    return "".join(verdict(path, use, images) for use in USES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_to_a_data_set(name: str, raw: dict[str, Any], tmp_path: Path) -> None:
    path, images = write_change(name, raw, tmp_path), tmp_path / "pictures"
    assert verdicts(path, images) == CHANGES[name].letters
    assert {problem.kind.name for problem in open_file(path, images=images).problems} == CHANGES[name].kinds


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[[Path], Path]:
    """Draws the pictures of an annotation file; gives their folder."""

    def draw(path: Path) -> Path:
        folder = tmp_path / "pictures"
        folder.mkdir(exist_ok=True)
        content = json.loads(path.read_bytes()) if path.suffix == ".json" else {}
        for image in content.get("images", []) if isinstance(content, dict) else []:
            name = Path(image.get("file_name", "").replace("\\", "/")).name
            if name and not (folder / name).exists():
                size = (int(image.get("width") or 80), int(image.get("height") or 60))
                Image.new("L", size).save(folder / name)
        return folder

    return draw


WANTED = {
    "whole.json": "----",
    "box_5px_beyond_image.json": "nnnn",  # its area is that of the box before it was moved: larger than the box
    "box_outside_image.json": "xxnn",
    "image_without_size.json": "nn-x",
    "width_float_whole.json": "----",
    "image_without_file_name.json": "xx--",
    "category_without_name.json": "nnnn",
    "annotation_ids_twice.json": "nnnn",
    "annotation_without_id.json": "nnnn",
    "image_id_true.json": "xxxx",
    "ids_strings_of_digits.json": "nnnn",
    "no_annotations.json": "xxnn",
    "no_categories.json": "xxxx",
    "frequency_without_lists.json": "--nn",
    "lists_in_one_image.json": "nnxx",
    "lists_without_frequency.json": "--nn",
    "polygon_of_two_points_alone.json": "xx-x",
    "polygon_of_two_points_beside_a_good_one.json": "nn-n",
    "polygon_without_area_beside_a_good_one.json": "nn--",
    "segmentation_empty_on_one_object.json": "-x-x",
    "negative_area.json": "nnxx",
    "area_empty_string.json": "xxxx",
    "area_larger_than_box.json": "nnnn",
    "bbox_of_strings.json": "xxxx",
    "iscrowd_string.json": "xxxx",
    "iscrowd_two.json": "xxxx",
    "iscrowd_float_zero.json": "----",
    "two_categories_of_one_name.json": "nnnn",
    "category_without_objects.json": "ii--",
    "annotation_id_zero.json": "----",
    "gzip.json.gz": "----",
}
"""Of each file in the cases' VERDICTS.tsv."""


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_case_has_its_verdict(shared: Path) -> None:
    assert [row["file"] for row in rows(shared / "cases/annotations/VERDICTS.tsv")] == list(WANTED)


@pytest.mark.parametrize("file", WANTED)
def test_a_case(file: str, shared: Path, pictures: Callable[[Path], Path]) -> None:
    path = shared / "cases/annotations" / file
    assert verdicts(path, pictures(path)) == WANTED[file]


@pytest.mark.parametrize(
    ("file", "use", "objects"),
    [
        ("box_outside_image.json", "training", 1),
        ("polygon_of_two_points_alone.json", "training_masks", 1),
        ("segmentation_empty_on_one_object.json", "training_masks", 1),
        ("segmentation_empty_on_one_object.json", "training", 2),
    ],
)
def test_objects_are_left_out_when_repair_is_asked(file: str, use: Use, objects: int, shared: Path, pictures) -> None:
    path = shared / "cases/annotations" / file
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        annotations = read_dataset(path, use=use, images=pictures(path), on_problem="repair")
    assert annotations.num_objects == objects
    assert [": left out" in str(warning.message) for warning in said] == [True] * (2 - objects)


CROSSED = {
    "cocoassistant/in.json": ("xxxx", "image_id_twice id_twice"),
    "darwin.json": ("ii--", "crowds_alone"),
    "datumaro_guess.json": ("ix-x", "mask_missing category_unused"),
    "datumaro_mask.json": ("ix-x", "mask_missing category_unused crowds_alone"),
    "datumaro_masks.json": ("ii--", "crowds_alone"),
    "datumaro_polygons.json": ("ix-x", "mask_missing category_unused"),
    "dtlpy/in.json": ("ix-x", "mask_missing category_unused crowds_alone"),
    "fiftyone.json": ("-x-x", "mask_missing"),
    "globox.json": ("ix-x", "mask_missing category_unused"),
    "hot_filter.json": ("nnnn", "lists_unknown"),
    "hotcoco_dataset.json": ("nxxx", "lists_missing mask_missing"),
    "hotcoco_save.json": ("-x-x", "mask_missing"),
    "kwcoco.json": ("xxxx", "lists_missing box_from_mask box_bad area_missing mask_unknown mask_missing"),
    "kwcoco_legacy.json": ("nxxx", "lists_missing box_from_mask mask_missing"),
    "labelformat_None.json": ("nnnn", "id_missing area_missing category_unused"),
    "labelstudio_BRUSH_TO_COCO.json": ("-x-x", "mask_missing"),
    "labelstudio_COCO.json": ("nx-x", "file_name_last_part size_missing mask_missing category_unused"),
    "labelstudio_coco_fixed.json": ("nx-x", "size_missing mask_missing category_unused"),
    "lvis_crowd_gt.json": ("xx-x", "file_name_missing mask_missing"),
    "mask-without-a-pixel/gt.json": ("nn-n", "mask_empty"),
    "pylabel.json": ("-x-x", "mask_missing crowd_mask_missing"),
    "sahi_gt.json": ("----", ""),
    "scalabel/in.json": ("xxxx", "box_bad area_missing mask_missing category_unused"),
    "segments.json": ("nxnx", "other_format box_from_mask area_missing mask_missing category_unused"),
    "superannotate-area/gt.json": ("nnnn", "area_large"),
    "supervision.json": ("ix-x", "mask_missing category_unused"),
    "train-knows-a-class-more/train.json": ("----", ""),
    "train-knows-a-class-more/val.json": ("----", ""),
}
"""Of what one tool writes and another reads: the letters, and the kinds of problems or a part of the error."""

WILD = {
    "coco_val2014_100.json": ("ii--", "category_unused"),
    "fce_gt_dataset.json": ("----", ""),
    "fce_gt_ignore.json": ("nxnx", "text_ids mask_missing"),
    "fce_keypoints_gt.json": ("nxnx", "keypoints mask_missing"),
    "sahi_visdrone_gt.json": ("nxnx", "area_large mask_missing category_unused"),
    "datumaro_instances_val.json": ("ii--", "category_unused crowds_alone"),
    "datumaro_instances_train.json": ("ix-x", "mask_missing category_unused"),
    "datumaro_person_keypoints_val.json": ("ii--", "crowds_alone"),
    "datumaro_panoptic_val.json": ("xxxx", "is a panoptic file (segments_info). Convert it"),
    "datumaro_stuff_val.json": ("ii--", "category_unused crowds_alone"),
    "datumaro_image_info_val.json": (
        "xxxx",
        "is an empty data set: its list categories has no entry, and its list annotations has none either",
    ),
    "datumaro_labels_val.json": ("xxxx", "is a file of image labels without boxes or masks"),
    "datumaro_roboflow_train.json": ("-x-x", "mask_missing"),
    "datumaro_sam_a.json": ("xxxx", "is a file of Segment Anything (SA-1B)"),
    "labelstudio_coco_import.json": ("xxxx", "flag_bad mask_box_some"),
    "labelstudio_tasks.json": ("nxnx", "other_format not_kept mask_missing"),
    "mmdet_coco_sample.json": (
        "xxxx",
        "category_unknown small ignore mask_missing crowd_mask_missing crowds_alone mask_box_some",
    ),
    "mmdet_coco_wrong_format.json": ("nxnx", "id_twice mask_missing"),
    "mmdet_vis_sample.json": ("iinn", "videos"),
    "roboflow_nutrigo_valid.json": ("nxnx", "category_name_twice mask_missing category_unused"),
    "roboflow_cardamage_valid.json": ("ii--", "category_unused"),
}
"""The same of the files of the wild."""


def check_file(path: Path, letters: str, expected: str, pictures: Callable[[Path], Path]) -> None:
    images = pictures(path)
    assert verdicts(path, images) == letters
    if expected.startswith("is "):
        with pytest.raises(DatasetError, match=re.escape(expected)):
            open_file(path, images=images)
    else:
        assert sorted(problem.kind.name for problem in open_file(path, images=images).problems) == sorted(
            expected.split()
        )


@pytest.mark.parametrize("file", CROSSED)
def test_what_one_tool_writes(file: str, shared: Path, pictures: Callable[[Path], Path]) -> None:
    check_file(shared / "cases/crossed" / file, *CROSSED[file], pictures)


@pytest.mark.parametrize("file", WILD)
def test_a_file_of_the_wild(file: str, shared: Path, pictures: Callable[[Path], Path]) -> None:
    check_file(shared / "cases/wild" / file, *WILD[file], pictures)


def test_the_counts_of_the_wild_are_those_of_pycocotools(shared: Path) -> None:
    """Images, annotations of each class and classes, of every file that both accept."""
    compared = 0
    for row in rows(shared / "cases/wild/MANIFEST.tsv"):
        path = shared / "cases/wild" / row["file"]
        if not row["wanted"].startswith("accept") or "_results" in path.name:
            continue
        content = json.loads(path.read_bytes())
        annotations = open_file(path)
        theirs = COCO()
        theirs.dataset = content
        with contextlib.redirect_stdout(io.StringIO()):
            theirs.createIndex()
        assert annotations.num_images == len(theirs.imgs), path.name
        assert annotations.num_classes == len(theirs.cats), path.name
        counts = Counter(int(record["category_id"]) for record in content["annotations"])
        ids = [category.id for category in annotations.categories]
        found = Counter(ids[label] for label in annotations.objects.labels.tolist())
        assert found == counts, path.name
        compared += 1
    assert compared == 14


def test_tasks_of_label_studio_have_a_box_and_a_polygon(shared: Path) -> None:
    annotations = open_file(shared / "cases/wild/labelstudio_tasks.json")
    assert annotations.objects.masked.tolist() == [False, True]
    assert [category.name for category in annotations.categories] == ["polygon_label", "rectangle_label"]


def test_every_file_of_the_wild_has_its_verdict(shared: Path) -> None:
    found = [row["file"] for row in rows(shared / "cases/wild/MANIFEST.tsv")]
    assert sorted(WILD) == sorted(file for file in found if "_results" not in file)


def test_a_results_file_is_named_as_one(shared: Path) -> None:
    with pytest.raises(DatasetError, match=r"is a results file \(a list of detections with scores\)\. Name the ann"):
        open_file(shared / "cases/wild/coco_fakebbox100_results.json")
