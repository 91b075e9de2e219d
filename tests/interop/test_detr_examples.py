"""The examples for transformers, as a user writes them: each in at most 15 lines, run on drawn images."""

import pytest
import torch

pytest.importorskip("transformers", reason="needs uv sync --group frameworks")
pytest.importorskip("accelerate", reason="needs uv sync --group frameworks")
pytest.importorskip("scipy", reason="the matching of transformers needs it")

from tests.interop import query_models
from tests.interop.query_models import MASK_MODELS, SIDE, Images, build, collate
from transformers import (
    EomtImageProcessor,
    Mask2FormerImageProcessor,
    RfDetrImageProcessor,
    RTDetrImageProcessor,
    TrainingArguments,
)

from tailseg.data.tiny_tail import generate

pytestmark = pytest.mark.filterwarnings("ignore")

BOXES = """
from transformers import AutoImageProcessor, RTDetrV2ForObjectDetection, Trainer
from tailseg.interop import read_classes
from tailseg.interop.detr import use_loss
from tailseg.losses import GumbelCE

_, frequency = read_classes("train.json")
loss = GumbelCE(frequency, background=False)
model = RTDetrV2ForObjectDetection.from_pretrained("model", num_labels=loss.num_classes, ignore_mismatched_sizes=True)
use_loss(model, loss, reset_bias=True)
Trainer(model, arguments, train_dataset=train_images, data_collator=collate).train()

processor = AutoImageProcessor.from_pretrained("model")
detections = processor.post_process_object_detection(model.eval()(pixels), 0.0, target_sizes=[(480, 640)])
"""
"""RT-DETR, D-FINE, LW-DETR, RF-DETR."""

MASKS = """
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation, Trainer
from tailseg.interop import read_classes
from tailseg.interop.detr import use_loss
from tailseg.losses import GumbelCE

_, frequency = read_classes("train.json")
loss = GumbelCE(frequency)  # with a logit of background, which is the output for "no object"
model = Mask2FormerForUniversalSegmentation.from_pretrained(
    "model", num_labels=loss.num_classes, ignore_mismatched_sizes=True
)
use_loss(model, loss, reset_bias=True)
Trainer(model, arguments, train_dataset=train_images, data_collator=collate).train()
processor = AutoImageProcessor.from_pretrained("model")
detections = processor.post_process_instance_segmentation(model.eval()(pixels), [(480, 640)], 0.0)
"""
"""EoMT. The processor of Mask2Former has its arguments in another order, see `test_the_example_trains`."""

FAMILIES = {
    "rt_detr_v2": (BOXES, RTDetrImageProcessor),
    "d_fine": (BOXES.replace("RTDetrV2For", "DFineFor"), RTDetrImageProcessor),
    "rf_detr": (BOXES.replace("RTDetrV2For", "RfDetrFor"), RfDetrImageProcessor),
    "rf_detr_masks": (
        BOXES.replace("RTDetrV2ForObjectDetection", "RfDetrForInstanceSegmentation").replace(
            "post_process_object_detection", "post_process_instance_segmentation"
        ),
        RfDetrImageProcessor,
    ),
    "mask2former": (
        MASKS.replace("(pixels), [(480, 640)], 0.0)", "(pixels), 0.0, target_sizes=[(480, 640)])"),
        Mask2FormerImageProcessor,
    ),
    "eomt": (MASKS.replace("Mask2FormerFor", "EomtFor"), EomtImageProcessor),
}


def collate_masks(samples):
    batch = collate(samples)
    return {
        "pixel_values": batch["pixel_values"],
        "class_labels": [labels["class_labels"] for labels in batch["labels"]],
        "mask_labels": [labels["masks"].float() for labels in batch["labels"]],
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_the_example_trains(name, data, tmp_path, monkeypatch):
    code, processor = FAMILIES[name]
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "train.json").write_text((data / "train.json").read_text())
    monkeypatch.chdir(tmp_path)
    build(name).save_pretrained("model")
    processor().save_pretrained("model")
    arguments = TrainingArguments(
        "out", max_steps=2, per_device_train_batch_size=4, remove_unused_columns=False, report_to="none", use_cpu=True,
        save_strategy="no",
    )  # fmt: skip
    names = {
        "arguments": arguments,
        "train_images": Images(data / "train.json"),
        "collate": collate_masks if name in MASK_MODELS else collate,
        "pixels": torch.rand(1, 3, SIDE, SIDE),
    }
    torch.manual_seed(0)
    exec(compile(code, name, "exec"), names)
    model, (result,) = names["model"], names["detections"]
    assert model.config.num_labels == names["frequency"].num_classes != query_models.NUM_CLASSES
    scores = result.get("scores", [info["score"] for info in result.get("segments_info", ())])
    assert len(scores) > 0
    logits = model(names["pixels"])
    if name in MASK_MODELS:
        assert logits.class_queries_logits.softmax(-1)[0, 0, :-1].max() >= max(scores) - 1e-6
    else:
        assert float(logits.logits.sigmoid().max()) == pytest.approx(float(max(scores)), abs=1e-6)
