"""Data sets of the user's own: what is taken, what is refused, and that the images come back."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision import tv_tensors

from tailseg.annotations.image_files import ImageError
from tailseg.annotations.read import open_file
from tailseg.data.source import SourcePart, open_source, to_pixels, write_annotations, write_source

MASKS = torch.zeros(2, 20, 30, dtype=torch.uint8)
MASKS[0, 2:8, 4:14] = 1
MASKS[1, 10:20, 15:25] = 255
TARGET = {"boxes": torch.tensor([[4.0, 2, 14, 8], [15, 10, 25, 20]]), "labels": torch.tensor([1, 0]), "masks": MASKS}


class Set:
    class_names = ("cat", "dog")

    def __init__(self, image=None, **changes):
        self.image = torch.rand(3, 20, 30) if image is None else image
        self.target = {key: value for key, value in (TARGET | changes).items() if value is not None}

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.image, self.target


def record(dataset):
    item = SourcePart(dataset, "train").annotate(1)
    if isinstance(item, ValueError):
        raise item
    return item


def test_a_target_becomes_records():
    image, objects = record(Set(iscrowd=[0, 1]))
    assert image == {"id": 2, "file_name": "train/1", "height": 20, "width": 30}
    assert [each["category_id"] for each in objects] == [2, 1]
    assert [each["bbox"] for each in objects] == [[4, 2, 10, 6], [15, 10, 10, 10]]
    assert [each["area"] for each in objects] == [60, 100]
    assert [each["iscrowd"] for each in objects] == [0, 1]
    assert objects[0]["segmentation"]["size"] == [20, 30]


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": TARGET["boxes"].tolist(), "labels": [1, 0], "masks": MASKS.numpy() > 0},
        {"boxes": tv_tensors.BoundingBoxes([[4, 2, 10, 6], [15, 10, 10, 10]], format="XYWH", canvas_size=(20, 30))},
        {"masks": tv_tensors.Mask(MASKS)},
    ],
)
def test_other_forms_are_the_same(changes):
    assert record(Set(**changes))[1] == record(Set())[1]


def test_labels_from_1_where_the_first_name_is_the_background():
    dataset = Set(labels=torch.tensor([2, 1]))
    dataset.class_names = ["__background__", "cat", "dog"]
    assert record(dataset)[1] == record(Set())[1]
    assert SourcePart(dataset, "train").class_names == ("cat", "dog")


def test_an_image_without_objects_and_one_without_masks():
    assert record(Set(boxes=torch.zeros(0, 4), labels=torch.zeros(0), masks=torch.zeros(0, 20, 30)))[1] == []
    assert record(Set(boxes=[], labels=[], masks=None))[1] == []
    assert "segmentation" not in record(Set(masks=None))[1][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"boxes": torch.tensor([[4.0, 12, 10, 6], [15, 10, 10, 10]])},
            r"box 0 \(4, 12, 10, 6\) has x2 < x1 .*box_convert",
        ),
        ({"boxes": torch.tensor([[4.0, 2, 10, 6], [4, 2, 10, 6]]), "masks": MASKS[[0, 0]]}, "as x, y, width, height"),
        ({"boxes": torch.tensor([[4.0, 2, 14, 8], [15, 10, 45, 20]])}, "box 1 .* reaches beyond the image of 30 x 20"),
        ({"boxes": TARGET["boxes"] / 30, "masks": None}, r"lie in 0 \.\. 1"),
        ({"boxes": torch.tensor([4.0, 2, 14, 8])}, r"boxes have the shape \[4\]"),
        ({"boxes": TARGET["boxes"] * torch.nan}, "NaN"),
        ({"boxes": None}, "the target has no boxes"),
        ({"labels": torch.tensor([1, 2])}, r"labels must lie in 0 \.\. 1, .* got 1 \.\. 2.*__background__"),
        ({"labels": torch.tensor([1.0, 0.5])}, "whole numbers"),
        ({"labels": torch.tensor([1])}, r"labels have the shape \[1\], expected \[2\]"),
        ({"masks": MASKS[0]}, r"masks have the shape \[20, 30\], expected \[2, 20, 30\].*numbers"),
        ({"masks": MASKS.transpose(1, 2)}, r"\[2, 30, 20\], expected \[2, 20, 30\]"),
        ({"masks": MASKS / 255}, "masks are floats"),
        ({"iscrowd": [0]}, "iscrowd has 1 entries"),
    ],
)
def test_what_a_target_cannot_be_is_named(changes, message):
    with pytest.raises(ValueError, match=rf"data.source, train set \(Set\), item 1: (?s:.*){message}"):
        record(Set(**changes))


def test_an_item_that_is_no_pair_and_an_error_of_the_users_code():
    class Broken(Set):
        def __getitem__(self, index):
            raise KeyError("photo")

    class Alone(Set):
        def __getitem__(self, index):
            return self.image

    with pytest.raises(ValueError, match="item 1: KeyError: 'photo'"):
        record(Broken())
    with pytest.raises(ValueError, match=r"expected a tuple \(image, target\) .* got a Tensor"):
        record(Alone())


def test_forms_of_an_image_have_the_same_pixels():
    gray = torch.randint(0, 256, (4, 5), dtype=torch.uint8)
    rgb = gray.expand(3, -1, -1)
    forms = [gray, gray[None], gray[None] / 255, rgb, rgb.permute(1, 2, 0).numpy(), gray.numpy(), tv_tensors.Image(rgb)]
    forms += [Image.fromarray(gray.numpy()), torch.cat([rgb, gray[None]])]
    for image in forms:
        torch.testing.assert_close(to_pixels(image), rgb, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.randn(3, 4, 5), "floats in .* not normalized"),
        (torch.zeros(5, 5, 7, dtype=torch.uint8), r"shape \[5, 5, 7\]"),
        (np.zeros((4, 5, 3), np.int64), "int64, expected uint8"),
        ("photo.jpg", "a str"),
    ],
)
def test_other_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        to_pixels(image)


@dataclass(frozen=True)
class Config:
    train: object
    val: object = None

    def build(self):
        return self.train, self.val


@pytest.mark.parametrize(
    ("train", "val", "message"),
    [
        (iter([]), None, "without __len__ and __getitem__"),
        ([], None, "has no images"),
        ([1], None, "no class_names"),
        (Set(), Subset(Set(), []), "the val set .* has no images"),
    ],
)
def test_what_is_no_data_set_is_refused(train, val, message):
    with pytest.raises(ValueError, match=message):
        open_source(Config(train, val))


def test_classes_differ_and_no_pair():
    class Other(Set):
        class_names = ("cat",)

    with pytest.raises(ValueError, match="class_names of the training and of the validation set differ"):
        open_source(Config(Set(), Other()))

    class One:
        def build(self):
            return Set()

    with pytest.raises(ValueError, match=r"One.build\(\) returned a Set, expected two data sets"):
        open_source(One())


@pytest.mark.parametrize("workers", [0, 2])
def test_the_file_reads_back_and_the_images_come_from_the_data_set(tmp_path, workers):
    pixels = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    part = SourcePart(Subset(Set(pixels), [0, 2]), "val")
    shown = []

    def track(items, title, total):
        shown.append((title, total))
        return items

    write_annotations(part, tmp_path / "val.json", workers=workers, track=track)
    assert shown == [("reading the validation set", 2)]
    annotations = open_file(tmp_path / "val.json", needs_sizes=True)
    assert not annotations.problems
    assert [category.name for category in annotations.categories] == ["cat", "dog"]
    np.testing.assert_array_equal(annotations.get_record(1).boxes, TARGET["boxes"])
    with pytest.raises(ImageError, match="val/1"):
        annotations.get_info(1)
    info = replace(annotations, source=part).get_info(1)
    assert torch.equal(part.read(info), pixels)
    part.dataset.dataset.image = pixels[:, :10]
    with pytest.raises(ImageError, match=r"item 1: the image is 30 x 10 .* was 30 x 20 .* data.augmentation"):
        part.read(info)


def test_files_are_kept_only_with_as_many_images_and_the_same_classes(tmp_path):
    def write(length, *, again):
        write_source(
            (SourcePart(Subset(Set(), range(length)), "train"), None), tmp_path, workers=0, track=track, again=again
        )
        return len(json.loads((tmp_path / "data/source/train.json").read_text())["images"])

    passes = []

    def track(items, title, total):
        passes.append(total)
        return items

    assert [write(2, again=True), write(2, again=False), write(3, again=False), write(3, again=True)] == [2, 2, 3, 3]
    assert passes == [2, 3, 3]
