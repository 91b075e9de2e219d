"""The Trainer of transformers reports the figures of `evaluate`, of a tiny random detector on the CPU."""

import json

import pytest
import torch

pytest.importorskip("transformers", reason="needs uv sync --group frameworks")
pytest.importorskip("accelerate", reason="needs uv sync --group frameworks")

from tests.interop.query_models import NUM_CLASSES, SIDE, Images, build, collate
from torchvision.ops import box_convert
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    SwinConfig,
    TrainingArguments,
)

from tailseg.data.tiny_tail import generate
from tailseg.evaluation import Evaluator, evaluate
from tailseg.interop.detr import use_loss
from tailseg.interop.trainer import EvaluatingTrainer, load_renamed
from tailseg.losses import EQLv2

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    return folder


def rt_detr(num_labels):
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    return RTDetrForObjectDetection(
        RTDetrConfig(
            backbone_config=backbone, encoder_in_channels=[8, 16, 16], encoder_hidden_dim=16, d_model=16,
            encoder_ffn_dim=16, decoder_in_channels=[16, 16, 16], decoder_ffn_dim=16, decoder_layers=1, num_queries=20,
            num_denoising=0, encoder_attention_heads=2, decoder_attention_heads=2, num_labels=num_labels,
        )
    )  # fmt: skip


def make_trainer(data, tmp_path, **options):
    images = Images(data / "val.json")
    processor = RTDetrImageProcessor()
    seen = []

    def post_process(outputs, sizes):
        """The model's detections, some of which lie on objects: a random network finds none."""
        results = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)
        first = sum(map(len, seen)) % len(images)
        for index, result in enumerate(results, start=first):
            labels = images[index]["labels"]
            objects = box_convert(labels["boxes"], "cxcywh", "xyxy") * torch.tensor(sizes[index - first]).flip(0).tile(
                2
            )
            result["boxes"][: len(objects)] = objects + index % 3
            result["labels"][: len(objects)] = labels["class_labels"]
        seen.append(results)
        return results

    arguments = TrainingArguments(
        output_dir=str(tmp_path), remove_unused_columns=False, per_device_eval_batch_size=3, report_to="none",
        per_device_train_batch_size=4, max_steps=2, eval_strategy="epoch", save_strategy="epoch", use_cpu=True,
        metric_for_best_model="bbox_AP", load_best_model_at_end=True, logging_strategy="no",
        num_train_epochs=1, save_only_model=True,
    )  # fmt: skip
    evaluator = Evaluator(data / "val.json", train=data / "train.json", labels="from_0")
    trainer = EvaluatingTrainer(
        rt_detr(len(images.ids)), arguments, eval_dataset=images, train_dataset=images, data_collator=collate,
        evaluator=evaluator, post_process=post_process, **options,
    )  # fmt: skip
    return trainer, images, seen


def to_records(images, seen):
    outputs = [output for batch in seen for output in batch]
    records = []
    for image, output in zip(images.raw["images"], outputs, strict=True):
        for label, score, (x1, y1, x2, y2) in zip(
            output["labels"].tolist(), output["scores"].tolist(), output["boxes"].double().tolist(), strict=True
        ):
            box = [x1, y1, x2 - x1, y2 - y1]
            records.append({"image_id": image["id"], "category_id": images.ids[label], "score": score, "bbox": box})
    return records


def test_an_evaluation_reports_the_figures_of_the_evaluator(data, tmp_path):
    trainer, images, seen = make_trainer(data, tmp_path)
    figures = trainer.evaluate()
    expected = evaluate(data / "val.json", to_records(images, seen), train=data / "train.json")
    assert len(seen) == 3
    assert trainer.metrics.scores == expected.scores
    for name in ("AP", "APr", "APc", "AR"):
        assert figures[f"eval_bbox_{name}"] == expected["bbox"][name]
    assert expected["bbox"]["APr"] > 0
    assert figures["eval_loss"] > 0
    assert len(trainer.predict(images).predictions[1]) == len(images)  # as without the evaluator


def test_a_training_logs_them_and_chooses_the_best_model_by_them(data, tmp_path):
    trainer, _, _ = make_trainer(data, tmp_path)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "eval_bbox_APr" in line]
    assert len(logged) >= 1
    assert logged[-1]["eval_bbox_AP"] == trainer.metrics["bbox"]["AP"]
    assert trainer.state.best_metric == max(line["eval_bbox_AP"] for line in logged)


@pytest.mark.parametrize("name", ["rf_detr", "mask2former"])
def test_renamed_weights_of_a_checkpoint_are_loaded_and_the_state_of_a_loss_too(name, tmp_path):
    """The Trainer alone leaves out what has another name in the file."""
    models = [build(name), build(name)]
    for model in models:
        use_loss(model, EQLv2(NUM_CLASSES, background=name == "mask2former"), reset_bias=True)
    saved = models[0].state_dict()
    for value in saved.values():
        value.add_(1)
    assert sum("gradient_sums" in key for key in saved) == 1
    models[0].save_pretrained(tmp_path)
    load_renamed(models[1], tmp_path)
    for key, value in models[1].state_dict().items():
        assert torch.equal(value, saved[key]), key


def test_the_best_model_and_a_resumed_one_are_complete(data, tmp_path):
    trainer, _, _ = make_trainer(data, tmp_path)
    trainer.train()
    folder = trainer.state.best_model_checkpoint
    saved = type(trainer.model).from_pretrained(folder).state_dict()
    trainer.model = rt_detr(trainer.model.config.num_labels)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.zero_()
    for load in (trainer._load_best_model, lambda: trainer._load_from_checkpoint(folder)):
        load()
        for key, value in trainer.model.state_dict().items():
            assert torch.equal(value, saved[key]), key


def test_a_batch_may_carry_the_ids_and_none_is_an_error(data, tmp_path):
    trainer, _, _ = make_trainer(data, tmp_path)

    def with_ids(samples):
        batch = collate(samples)
        ids = torch.tensor([label.pop("image_id") for label in batch["labels"]])
        return batch | {"image_id": ids}

    expected = trainer.evaluate()["eval_bbox_AR"]
    trainer.data_collator = with_ids
    assert trainer.evaluate()["eval_bbox_AR"] == expected
    trainer.data_collator = lambda samples: {
        key: value for key, value in with_ids(samples).items() if key != "image_id"
    }
    with pytest.raises(ValueError, match="the batch has pixel_values, labels, and no image_id"):
        trainer.evaluate()
    with pytest.raises(ValueError, match="compute_metrics would get no outputs"):
        make_trainer(data, tmp_path, compute_metrics=lambda _: {})


def test_the_masks_of_mask2former_are_evaluated(data):
    torch.manual_seed(0)
    raw = json.loads((data / "val.json").read_text())
    backbone = SwinConfig(
        image_size=SIDE, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
            dim_feedforward=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=6,
            num_labels=len(raw["categories"]),
        )
    ).eval()  # fmt: skip
    processor = Mask2FormerImageProcessor()
    evaluator = Evaluator(data / "val.json", labels="from_0")
    for image in raw["images"][:2]:
        with torch.no_grad():
            outputs = model(torch.rand(1, 3, SIDE, SIDE))
        (result,) = processor.post_process_instance_segmentation(
            outputs, threshold=0.0, target_sizes=[evaluator.get_size(image["id"])], return_binary_maps=True
        )
        evaluator.update([result], image_ids=[image["id"]])
    metrics = evaluator.compute()
    assert [*metrics.scores] == ["segm"]
    assert 0 < metrics.num_detections <= 12
