"""The callback for rfdetr: its data set and post-processing and Lightning's Trainer, with a network that is made up."""

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("pytorch_lightning", reason="needs rfdetr[train] next to tailseg")
pytest.importorskip("rfdetr", reason="needs rfdetr[train] next to tailseg")

from pytorch_lightning import LightningModule, Trainer
from rfdetr.datasets.coco import CocoDetection
from rfdetr.models.postprocess import PostProcess
from tests.raw_data import minimal
from torchvision.ops import box_convert

from tailseg.evaluation import evaluate
from tailseg.interop.lightning import RFDETREvaluation

pytestmark = pytest.mark.filterwarnings("ignore")


class Made(LightningModule):
    """Finds the first object of each image, with some random queries; its last output is never trained."""

    def __init__(self, num_classes):
        super().__init__()
        self.model_config = SimpleNamespace(num_classes=num_classes)
        self.postprocess = PostProcess(num_select=12)
        self.seen = []

    def validation_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(batch_idx)
        targets = [target for _, target in batch]
        logits = torch.randn(len(batch), 6, self.model_config.num_classes + 1, generator=generator)
        boxes = torch.rand(len(batch), 6, 4, generator=generator) * 0.3 + 0.2
        for row, target in enumerate(targets):
            height, width = target["orig_size"].tolist()
            boxes[row, 0] = box_convert(target["boxes"][0], "xyxy", "cxcywh") / torch.tensor([width, height] * 2)
            logits[row, 0, target["labels"][0]] = 0.5
        sizes = torch.stack([target["orig_size"] for target in targets])
        results = self.postprocess({"pred_logits": logits, "pred_boxes": boxes}, sizes)
        self.seen += zip([int(target["image_id"]) for target in targets], results, strict=True)
        return {"results": results, "targets": targets}


@pytest.mark.parametrize("renumbered", [True, False])
def test_figures_are_those_of_the_file(renumbered, write):
    raw = minimal()  # ids 7 and 3, in this order; rfdetr numbers them in order of id
    path = write(raw, images=True)
    dataset = CocoDetection(path.parent, path, transforms=None, remap_category_ids=renumbered)
    module = Made(num_classes=2 if renumbered else 8)
    callback = RFDETREvaluation(path, groups={7: "r", 3: "f"})
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, callbacks=[callback]
    )
    loader = torch.utils.data.DataLoader(dataset, batch_size=1, collate_fn=list)
    (logged,) = trainer.validate(module, loader, verbose=False)
    ids = {0: 3, 1: 7} if renumbered else {7: 7, 3: 3}
    records = [
        {"image_id": key, "category_id": ids[label], "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for key, result in module.seen
        for label, score, (x1, y1, x2, y2) in zip(
            result["labels"].tolist(), result["scores"].tolist(), result["boxes"].double().tolist(), strict=True
        )
        if label in ids
    ]
    assert len(records) < sum(len(result["labels"]) for _, result in module.seen)
    expected = evaluate(json.loads(path.read_text()), records, groups={7: "r", 3: "f"})
    assert callback.metrics.scores == expected.scores
    assert logged["val/bbox/APr"] == pytest.approx(expected["bbox"]["APr"])
    assert expected["bbox"]["AP"] > 0
