"""The evaluator of a loop gives the figures of `tailseg eval`, in whatever form detections come; it guesses nothing."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tailseg.cli import main
from tailseg.evaluation import Evaluator, analyze, evaluate
from tailseg.evaluation.in_memory import GRID_NOTE, MAP_NOTE
from tailseg.evaluation.labels import LabelTable

from . import loop_data

CLASSES = {1: "two", 2: "five", 3: "nine"}
FORMS = {
    "torchvision": (lambda output: output, "from_1"),
    "bool": (lambda output: output | {"masks": output["masks"][:, 0] > 0.5}, "from_1"),
    "tailseg": (loop_data.to_tailseg, "from_0"),
    "supervision": (loop_data.to_supervision, [2, 5, 9]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return loop_data.write(tmp_path_factory.mktemp("loop"))


def give(evaluator, outputs, form=lambda output: output, size=5):
    ids = list(outputs)
    for start in range(0, len(ids), size):
        batch = ids[start : start + size]
        evaluator.update([form(outputs[key]) for key in batch], image_ids=batch)
    return evaluator.compute()


@pytest.mark.parametrize("name", FORMS)
def test_figures_are_those_of_the_command(name, files, tmp_path):
    truth, results, outputs = files
    form, labels = FORMS[name]
    metrics = give(Evaluator(truth, labels=labels, groups={2: "r", 5: "c", 9: "f"}), outputs, form)
    assert metrics.to_dict() == evaluate(truth, results, groups={2: "r", 5: "c", 9: "f"}).to_dict()
    assert main(["eval", str(truth), str(results), "--out", str(tmp_path)]) == 0
    command = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["segm"]["AP"] == command["scores"]["segm"]["AP"] > 0.1
    assert metrics["bbox"]["AP75"] == command["scores"]["bbox"]["AP75"]
    assert metrics["segm"]["APr"] != metrics["segm"]["APf"]


def test_figures_of_lvis_files_are_those_of_the_command(synthetic, tmp_path):
    case = synthetic.write(tmp_path, images=30, num_classes=40)
    records = json.loads(case.results.read_text())
    by_image = {}
    for record in records:
        by_image.setdefault(record["image_id"], []).append(record)
    evaluator = Evaluator(case.truth)
    ids = sorted(by_image, reverse=True)
    for start in range(0, len(ids), 7):
        evaluator.update([record for key in ids[start : start + 7] for record in by_image[key]])
    metrics, expected = evaluator.compute(), evaluate(case.truth, case.results)
    assert metrics.scores == expected.scores
    assert metrics.per_class == expected.per_class
    assert metrics["segm"]["APr"] > 0


def test_packed_results_are_results(files):
    truth, results, _ = files
    from tailseg.evaluation import read_results

    records, packed = json.loads(results.read_text()), read_results(results)
    assert list(packed) == records
    assert packed[-1] == records[-1]
    assert packed[2:4] == records[2:4]
    halves = [packed.select(np.arange(20)), packed.select(np.arange(20, len(packed)))]
    assert list(type(packed).concatenate(halves)) == records
    assert analyze(truth, packed).to_dict() == analyze(truth, results).to_dict()
    boxes = evaluate(truth, packed, iou_types=("bbox",))
    assert boxes.to_dict() == evaluate(truth, results, iou_types=("bbox",)).to_dict()


def test_targets_make_the_annotation_file(files):
    truth, results, outputs = files
    raw = json.loads(truth.read_text())
    ids, targets = [*loop_data.CATEGORIES], {}
    for key in outputs:
        objects = [one for one in raw["annotations"] if one["image_id"] == key]
        corners = np.reshape([[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in objects)], (-1, 4))
        masks = [loop_data.run_lengths.decode(one["segmentation"]) for one in objects]
        targets[key] = {
            "boxes": torch.tensor(corners),
            "labels": torch.tensor([ids.index(one["category_id"]) + 1 for one in objects], dtype=torch.int64),
            "masks": torch.from_numpy(np.reshape(masks, (-1, loop_data.HEIGHT, loop_data.WIDTH))).bool(),
            "iscrowd": torch.tensor([one["iscrowd"] for one in objects]),
            "image_id": torch.tensor([key]),
        }
    evaluator = Evaluator(classes=CLASSES)
    for key, output in outputs.items():
        evaluator.update([output], [targets[key]])
    metrics, expected = evaluator.compute(), evaluate(truth, results)
    assert metrics.scores == expected.scores
    assert [one.num_objects for one in metrics.per_class["segm"]] == [
        one.num_objects for one in expected.per_class["segm"]
    ]
    without_ids = Evaluator(classes=CLASSES, iou_types=("bbox",))
    for target in targets.values():
        del target["image_id"], target["masks"]
        target["area"] = target["boxes"].new_full((len(target["boxes"]),), 50.0**2)
    without_ids.update(list(outputs.values())[:6], list(targets.values())[:6])
    without_ids.update(list(outputs.values())[6:], list(targets.values())[6:])
    metrics = without_ids.compute()
    assert metrics["bbox"]["AP"] == expected["bbox"]["AP"]
    assert metrics["bbox"]["APs"] is None
    assert metrics["bbox"]["APm"] > metrics["bbox"]["AP"]  # false alarms, which are small, do not count


def test_two_processes_have_the_figures_of_one(files, tmp_path):
    truth, results, _ = files
    (tmp_path / "truth.json").write_text(truth.read_text())
    script = Path(__file__).with_name("loop_processes.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, str(script), str(tmp_path), str(rank)], env=environment) for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["message"].startswith("no image was given")
    expected = json.loads(evaluate(truth, results).to_json())
    assert first["metrics"]["scores"] == expected["scores"]
    assert first["metrics"]["num_detections"] == expected["num_detections"]
    assert first["metrics"]["notes"] == [
        "2 images were given more than once, as samplers of several processes do: each counts once"
    ]


def test_no_bitmap_stays_in_memory():
    raw = {
        "images": [{"id": key, "height": 500, "width": 500} for key in range(8)],
        "categories": [{"id": 1, "name": "one"}],
        "annotations": [],
    }
    masks = torch.zeros(40, 500, 500, dtype=torch.bool)
    masks[:, 100:300, 50:400] = True
    output = {
        "boxes": torch.tensor([[50.0, 100.0, 400.0, 300.0]]).expand(40, 4),
        "labels": torch.ones(40, dtype=torch.int64),
        "scores": torch.linspace(0, 1, 40),
        "masks": masks,
    }
    evaluator = Evaluator(raw, labels="from_1")
    for key in range(8):
        evaluator.update([output], image_ids=[key])
    evaluator.compute()
    assert len(pickle.dumps(evaluator._state)) < 320 * 1500  # bitmaps have 320 * 250,000 bytes


def test_an_evaluation_goes_on_after_compute_and_starts_again_after_reset(files):
    truth, results, outputs = files
    evaluator, ids = Evaluator(truth, labels="from_1"), list(outputs)
    evaluator.update([outputs[key] for key in ids[:7]], image_ids=torch.tensor(ids[:7]))
    half = evaluator.compute()
    assert half.notes == (f"5 of 12 images of {truth} were not given: their objects count as missed",)
    evaluator.update([outputs[key] for key in ids[7:]], image_ids=[torch.tensor([key]) for key in ids[7:]])
    assert evaluator.compute().to_dict() == evaluate(truth, results).to_dict()
    evaluator.reset()
    assert give(evaluator, outputs).to_dict() == evaluate(truth, results).to_dict()


def test_an_image_given_again_is_an_error_that_changes_nothing(files):
    truth, _, outputs = files
    evaluator = Evaluator(truth, labels="from_1")
    expected = give(evaluator, outputs).to_dict()
    key = next(iter(outputs))
    with pytest.raises(ValueError, match=f"image {key} was given before: .* call reset"):
        evaluator.update([outputs[key]], image_ids=[key])
    assert evaluator.compute().to_dict() == expected


def test_transformers_segments_are_masks(files):
    truth, _, outputs = files
    outputs = {key: output for key, output in outputs.items() if len(output["labels"])}

    def to_binary_maps(output):
        maps = (output["masks"][:, 0] > 0.5).float()
        pairs = zip(output["labels"].tolist(), output["scores"].tolist(), strict=True)
        return {
            "segmentation": maps,
            "segments_info": [
                {"id": 3 * i, "label_id": label, "score": score} for i, (label, score) in enumerate(pairs)
            ],
        }

    def to_map(output):
        result = to_binary_maps(output)
        painted = torch.full(result["segmentation"].shape[1:], -1)
        for segment, mask in zip(result["segments_info"], result["segmentation"], strict=True):
            painted[mask > 0] = segment["id"]
        return result | {"segmentation": painted}

    kept = Evaluator(truth, labels="from_1", iou_types=("segm",))
    expected = give(kept, outputs)
    metrics = give(Evaluator(truth, labels="from_1"), outputs, to_binary_maps)
    assert metrics.scores == expected.scores
    assert [*metrics.scores] == ["segm"]
    painted = give(Evaluator(truth, labels="from_1"), outputs, to_map)
    assert MAP_NOTE in painted.notes
    assert painted["segm"]["AP"] < expected["segm"]["AP"]
    empty = Evaluator(truth, labels="from_1")
    empty.update([{"segmentation": torch.full((40, 60), -1), "segments_info": []}], image_ids=[100])
    assert empty.compute()["segm"]["AP"] == 0
    run_lengths = {"segmentation": [[1, 5]], "segments_info": [{"id": 1, "label_id": 1, "score": 0.5}]}
    with pytest.raises(ValueError, match="not COCO's.*return_binary_maps=True"):
        empty.update([run_lengths], image_ids=[107])


SOUND = {
    "boxes": torch.tensor([[1.0, 1.0, 9.0, 9.0]]),
    "labels": torch.tensor([1]),
    "scores": torch.tensor([0.5]),
    "masks": torch.zeros(1, 1, 40, 60),
}


def changed(**parts):
    return {**SOUND, **parts}


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (changed(boxes=torch.tensor([[30.0, 20.0, 10.0, 5.0]])), r"\[30.0, 20.0, 10.0, 5.0\] ends before it begins"),
        (changed(boxes=torch.tensor([[torch.nan, 1, 2, 3]])), "not finite"),
        (changed(scores=torch.tensor([4.2])), "scores should be 0 to 1, got 4.2. Apply the sigmoid"),
        (changed(scores=torch.tensor([torch.nan])), "scores should be 0 to 1, got nan"),
        (changed(masks=torch.full((1, 1, 40, 60), -3.0)), "probabilities, got values from -3 to -3. Compare logits"),
        (changed(masks=torch.full((1, 1, 40, 60), torch.nan)), "got values from nan"),
        (changed(masks=torch.full((1, 40, 60), 255, dtype=torch.uint8)), "divide 0 and 255 by 255"),
        (changed(masks=torch.zeros(1, 28, 28)), r"height and width \[28, 28\], the image \[40, 60\]"),
        (changed(masks=torch.zeros(40, 60)), r"\[detections, height, width\], got \[40, 60\]"),
        (changed(labels=torch.tensor([0])), "label 0 is no class: labels='from_1' has 1 to 3 .* give 'from_0'"),
        (changed(labels=torch.tensor([4])), "label 4 is no class: labels='from_1' has 1 to 3"),
        (changed(labels=torch.tensor([1.5])), "whole numbers"),
        (changed(labels=torch.tensor([1, 1])), "2 labels and 1 scores and 1 boxes and 1 masks"),
        ({"logits": torch.zeros(1, 3), "pred_boxes": torch.zeros(1, 4)}, "what the post-processing returns"),
        ({"scores": torch.tensor([0.5]), "labels": torch.tensor([1])}, "neither boxes nor masks"),
    ],
)
def test_what_cannot_be_used_is_said(output, message, files):
    evaluator = Evaluator(files[0], labels="from_1")
    with pytest.raises(ValueError, match=message):
        evaluator.update([output], image_ids=[100])
    assert evaluator.num_images == 0


def test_normalized_boxes_are_refused(files):
    boxes = torch.rand(12, 4).sort(dim=1).values
    output = {"boxes": boxes, "labels": torch.ones(12), "scores": torch.rand(12)}
    with pytest.raises(ValueError, match="all 12 boxes lie between 0 and 1: expected pixels"):
        Evaluator(files[0], labels="from_1").update([output], image_ids=[100])


def test_labels_are_never_guessed(files, tmp_path):
    truth, results, outputs = files
    with pytest.raises(ValueError, match=r"not guessed which: give Evaluator\(..., labels="):
        Evaluator(truth).update([outputs[107]], image_ids=[107])
    with pytest.raises(ValueError, match="label 3 is no class: labels='from_0' has 0 to 2 .* count from 1"):
        Evaluator(truth, labels="from_0").update([changed(labels=torch.tensor([3]))], image_ids=[100])
    with pytest.raises(ValueError, match="the category id 4 is not in"):
        Evaluator(truth, labels={0: 4})
    with pytest.raises(ValueError, match="labels should be 'category_ids'.*got 'coco'"):
        LabelTable("coco", [2, 5, 9], "truth.json")
    raw = json.loads(truth.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(raw | {"categories": raw["categories"][::-1]}))
    with pytest.raises(ValueError, match="does not list its categories in order of id.*labels={0: 7, 1: 3}"):
        Evaluator(other, labels="from_1")
    metrics = give(Evaluator(other, labels={1: 2, 2: 5, 3: 9}), outputs)
    assert metrics.scores == evaluate(truth, results).scores


def test_ignored_labels_are_left_out(files):
    truth, results, outputs = files

    def add_background(output):
        count = len(output["labels"])
        return {
            name: torch.cat([values, values]) if name != "labels" else torch.cat([values, torch.zeros(count).long()])
            for name, values in output.items()
        }

    metrics = give(Evaluator(truth, labels="from_1", ignored_labels=[0]), outputs, add_background)
    assert metrics.to_dict() == evaluate(truth, results).to_dict()


def test_images_and_arguments_must_fit(files):
    truth, _, outputs = files
    evaluator = Evaluator(truth, labels="from_1")
    output = outputs[107]
    for arguments, message in (
        ({"image_ids": [1]}, "has no image 1: give the ids of its images, not their places"),
        ({}, "image_ids is missing"),
        ({"image_ids": [100, 107]}, "1 prediction and 2 image ids"),
        ({"image_ids": ["a.jpg"]}, "an image id should be a whole number, got 'a.jpg'"),
        ({"targets": [{}]}, "give image_ids instead of targets"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluator.update([output], **arguments)
    with pytest.raises(TypeError, match="a list with one element for each image.*got builtins.dict"):
        evaluator.update(output, image_ids=[107])
    with pytest.raises(TypeError, match="expected a dict with boxes, labels and scores.*got torch.Tensor"):
        evaluator.update([torch.zeros(3)], image_ids=[107])
    evaluator.update([output], image_ids=[107])
    no_masks = {name: values for name, values in outputs[114].items() if name != "masks"}
    with pytest.raises(ValueError, match="image 114: no masks, which earlier detections"):
        evaluator.update([no_masks], image_ids=[114])
    boxes = Evaluator(truth, labels="from_1")
    boxes.update([no_masks], image_ids=[114])
    with pytest.raises(ValueError, match="image 107: it has boxes and masks, and earlier detections have one"):
        boxes.update([output], image_ids=[107])
    with pytest.raises(ValueError, match="give either the annotation file, or classes"):
        Evaluator()
    with pytest.raises(ValueError, match="classes should be the names by label.*got"):
        Evaluator(classes={})
    with pytest.raises(ValueError, match="the objects come as targets"):
        Evaluator(classes=CLASSES).update([output])
    with pytest.raises(
        ValueError, match="target of image 1: expected boxes.*labels missing: it has boxes, class_labels"
    ):
        Evaluator(classes=CLASSES).update([output], [{"boxes": torch.zeros(0, 4), "class_labels": torch.zeros(0)}])
    with pytest.raises(ValueError, match="no image was given"):
        Evaluator(truth).compute()


def test_records_are_checked(files):
    truth, results, _ = files
    records = json.loads(results.read_text())
    evaluator = Evaluator(truth)
    with pytest.raises(ValueError, match="category_id 3 is not in .* not labels"):
        evaluator.update([records[0] | {"category_id": 3}])
    with pytest.raises(ValueError, match="scores should be 0 to 1, got 50"):
        evaluator.update([records[0] | {"score": 50.0}])
    with pytest.raises(ValueError, match="has no image 1"):
        evaluator.update([records[0] | {"image_id": 1}])
    assert evaluator.num_images == 0
    evaluator.update(records, image_ids=[image["id"] for image in json.loads(truth.read_text())["images"]])
    assert evaluator.num_images == 12
    assert evaluator.compute().to_dict() == evaluate(truth, results).to_dict()


def test_notes_tell_of_thresholds_and_16_bits(files):
    truth, _, outputs = files

    def cut(output):
        rows = output["scores"] > 0.3
        return {name: values[rows] for name, values in output.items()} | {"boxes": output["boxes"][rows].bfloat16()}

    notes = give(Evaluator(truth, labels="from_1"), outputs, cut).notes
    assert GRID_NOTE in notes
    assert any("no detection scores below 0.3" in note and "threshold=0" in note for note in notes)


def test_groups_come_from_the_training_set(files, tmp_path):
    truth, results, outputs = files
    raw = json.loads(truth.read_text())
    train = tmp_path / "train.json"
    for image in raw["images"]:
        image["file_name"] = f"{image['id']}.jpg"
    train.write_text(json.dumps(raw))
    metrics = give(Evaluator(truth, labels="from_1", train=train, groups=(4, 6)), outputs)
    expected = evaluate(truth, results, train=train, groups=(4, 6))
    assert metrics.to_dict() == expected.to_dict()
    assert {one.group for one in metrics.per_class["bbox"]} >= {"c", "f"} or metrics["bbox"]["APr"] is not None
    assert metrics.flatten()["segm/AP"] == expected["segm"]["AP"]
    assert replace(metrics, extra={"Own": {"mean": 2.0}}).flatten()["Own/mean"] == 2.0


def test_a_batch_without_records(files):
    """Early in a training, whole batches have no detections."""
    truth, results, _ = files
    records = json.loads(results.read_text())
    ids = [image["id"] for image in json.loads(truth.read_text())["images"]]
    evaluator = Evaluator(truth)
    evaluator.update([], image_ids=ids[:1])
    assert evaluator.num_images == 1
    with pytest.raises(ValueError, match="was given before"):
        evaluator.update([], image_ids=ids[:1])
    evaluator.update([one for one in records if one["image_id"] != ids[0]], image_ids=ids[1:])
    expected = evaluate(truth, [one for one in records if one["image_id"] != ids[0]])
    assert evaluator.compute().to_dict() == expected.to_dict()
