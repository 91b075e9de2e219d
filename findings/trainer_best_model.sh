#!/usr/bin/env bash
# What the transformers Trainer loads of a detector: with load_best_model_at_end and with resume_from_checkpoint.
#
# Versions: Python 3.11, transformers 5.24.0, accelerate 1.15.0, torch 2.15.0, torchvision 0.29.2, scipy 1.17.1.
#
# Guess before the run: save_pretrained writes some tensors under other names than they have in the model, those of the
# published checkpoints, and from_pretrained translates them back. The Trainer reads the file itself and calls
# load_state_dict(strict=False), so that these tensors stay as they were, also when a training is resumed.
#
# Behavior: as guessed, and for more models and more tensors than expected. With load_best_model_at_end the model at the
# end of the training is a mixture of the best and the last: DETR keeps the last backbone, Mask2Former its Swin, RT-DETR,
# RT-DETRv2 and D-FINE the last feed-forward layers and projections of self-attention, LW-DETR the last attention of
# its backbone, RF-DETR 152 of 160 tensors. EoMT is loaded completely. resume_from_checkpoint reads in the same way, but
# takes the optimizer and the step from the checkpoint: RF-DETR goes on with the weights from before the training. The
# log has a warning with the missing keys (their number of messages stands in brackets below), and nothing stops. The
# checkpoint is complete: from_pretrained reads it. huggingface/transformers#43701 reports it for resuming.
#
# Who meets it: whoever fine-tunes one of these detectors and evaluates or saves trainer.model at the end, or continues a
# training that was interrupted. The figures of the best evaluation are not those of the model that is there.
#
# Output seen on 2026-11-30: the lines between "expected" below.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check transformers==5.24.0 accelerate==1.15.0 torch==2.15.0 \
    torchvision==0.29.2 scipy==1.17.1

cat > try.py <<'PYTHON'
import logging
from importlib.metadata import version

import torch
import transformers
from transformers import (
    DetrConfig, DetrForObjectDetection, DFineConfig, DFineForObjectDetection, EomtConfig, EomtForUniversalSegmentation,
    HGNetV2Config, LwDetrConfig, LwDetrForObjectDetection, LwDetrViTConfig, Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation, RfDetrConfig, RfDetrForObjectDetection, RTDetrConfig, RTDetrForObjectDetection,
    RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection, SwinConfig, Trainer, TrainerCallback,
    TrainingArguments,
)
from transformers.models.rf_detr.configuration_rf_detr import RfDetrDinov2Config
from transformers.trainer_callback import PrinterCallback

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
SIDE = 64


def resnet(features):
    return RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_features=features
    )


def detr():
    return DetrForObjectDetection(
        DetrConfig(
            backbone_config=resnet(["stage4"]), d_model=16, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=4,
            use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, num_labels=5,
        )
    )


SETTINGS = {
    "encoder_in_channels": [8, 16, 16], "encoder_hidden_dim": 16, "d_model": 16, "encoder_ffn_dim": 16,
    "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 16, "decoder_layers": 2, "num_queries": 10,
    "num_denoising": 4, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_labels": 5,
}


def rt_detr(kind=RTDetrForObjectDetection, config=RTDetrConfig):
    return kind(config(backbone_config=resnet(["stage2", "stage3", "stage4"]), **SETTINGS))


def d_fine():
    backbone = HGNetV2Config(
        stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 8, 16], stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16], stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True], stage_light_block=[False, False, False, False],
        stage_kernel_size=[3, 3, 3, 3], hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], embedding_size=8,
        out_features=["stage2", "stage3", "stage4"],
    )
    return DFineForObjectDetection(
        DFineConfig(backbone_config=backbone, decoder_n_points=[2, 2, 2], max_num_bins=8, **SETTINGS)
    )


def rf_detr():
    backbone = RfDetrDinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=4,
        num_windows=2, out_features=["stage1", "stage2"],
    )
    return RfDetrForObjectDetection(
        RfDetrConfig(
            backbone_config=backbone, num_labels=5, d_model=16, decoder_layers=2, decoder_ffn_dim=16,
            decoder_self_attention_heads=2, decoder_cross_attention_heads=2, num_queries=8, group_detr=2,
            intermediate_size=16,
        )
    )


def lw_detr():
    backbone = LwDetrViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=4,
        num_windows=4, window_block_indices=[0], out_indices=[1, 2], out_features=None,
    )
    return LwDetrForObjectDetection(
        LwDetrConfig(
            backbone_config=backbone, num_labels=5, d_model=16, decoder_layers=2, decoder_ffn_dim=16,
            decoder_self_attention_heads=2, decoder_cross_attention_heads=2, num_queries=8, group_detr=2,
            projector_scale_factors=[1.0], decoder_n_points=2,
        )
    )


def mask2former():
    backbone = SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=32,
            encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=32, num_queries=8,
            train_num_points=64, num_labels=5,
        )
    )


def eomt():
    return EomtForUniversalSegmentation(
        EomtConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=SIDE, patch_size=4,
            num_blocks=1, num_upscale_blocks=1, num_queries=8, train_num_points=64, num_labels=5,
            num_register_tokens=0,
        )
    )


MODELS = {
    "DETR": detr, "EoMT": eomt, "RT-DETR": rt_detr,
    "RT-DETRv2": lambda: rt_detr(RTDetrV2ForObjectDetection, RTDetrV2Config), "D-FINE": d_fine, "LW-DETR": lw_detr,
    "Mask2Former": mask2former, "RF-DETR": rf_detr,
}


class Images(torch.utils.data.Dataset):
    """Four images with an object each."""

    def __len__(self):
        return 4

    def __getitem__(self, image):
        pixels = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(image))
        return {"pixel_values": pixels, "class": torch.tensor([image]), "box": torch.tensor([[0.5, 0.4, 0.6, 0.4]])}


def collate_boxes(samples):
    labels = [{"class_labels": sample["class"], "boxes": sample["box"]} for sample in samples]
    return {"pixel_values": torch.stack([sample["pixel_values"] for sample in samples]), "labels": labels}


def collate_masks(samples):
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 13:38, 13:51] = 1
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "class_labels": [sample["class"] for sample in samples], "mask_labels": [mask for _ in samples],
    }


class FirstIsBest(Trainer):
    """As after an evaluation in which AP fell."""

    def evaluate(self, *arguments, **options):
        return {"eval_AP": 1 / self.state.global_step}


def make_trainer(name, model, **options):
    arguments = TrainingArguments(
        f"out/{name}", learning_rate=1e-2, per_device_train_batch_size=2, remove_unused_columns=False,
        report_to="none", use_cpu=True, save_strategy="steps", save_steps=1, eval_strategy="steps", eval_steps=1,
        disable_tqdm=True, **options,
    )
    collate = collate_masks if name in ("EoMT", "Mask2Former") else collate_boxes
    trainer = FirstIsBest(model, arguments, train_dataset=Images(), eval_dataset=Images(), data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    return trainer


def copy_weights(model):
    return {name: weights.detach().clone() for name, weights in model.named_parameters()}


def count(model, expected, other):
    """How many of the weights that differ between two models are those of the first, and how many there are."""
    names = [name for name in expected if not torch.equal(expected[name], other[name])]
    weights = dict(model.named_parameters())
    return sum(torch.equal(weights[name], expected[name]) for name in names), len(names)


class CountAtBegin(TrainerCallback):
    """Counts the weights of the checkpoint that a resumed training begins with."""

    def __init__(self, best, first):
        self.best, self.first = best, first

    def on_train_begin(self, args, state, control, model, **options):
        loaded, changed = count(model, self.best, self.first)
        print(f"resumed after step {state.global_step} with {loaded} of {changed}")


class Warnings(logging.Handler):
    """Counts the messages that name missing keys."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record):
        self.count += "missing keys" in record.getMessage()


print(*(f"{name} {version(name)}" for name in ("transformers", "accelerate", "torch", "torchvision", "scipy")))
transformers.logging.set_verbosity_warning()
warnings = Warnings()
logging.getLogger("transformers.trainer").addHandler(warnings)
for name, make in MODELS.items():
    torch.manual_seed(0)
    model = make()
    first = copy_weights(model)
    trainer = make_trainer(name, model, max_steps=3, load_best_model_at_end=True, metric_for_best_model="AP")
    last = {}
    load_best = trainer._load_best_model

    def keep_last_and_load():
        last.update(copy_weights(model))
        load_best()

    trainer._load_best_model = keep_last_and_load  # only to know the weights before
    warnings.count = 0
    trainer.train()
    folder = trainer.state.best_model_checkpoint
    assert folder.endswith("checkpoint-1")
    best = copy_weights(type(model).from_pretrained(folder))
    loaded, changed = count(model, best, last)
    print(f"{name}: {loaded} of {changed} weights are those of the best model (in the log: {warnings.count})", end="; ")

    torch.manual_seed(0)
    model = make()
    trainer = make_trainer(name, model, max_steps=3)
    trainer.add_callback(CountAtBegin(best, first))
    trainer.train(resume_from_checkpoint=folder)
PYTHON

cat > expected <<'TEXT'
transformers 5.24.0 accelerate 1.15.0 torch 2.15.0 torchvision 0.29.2 scipy 1.17.1
DETR: 40 of 54 weights are those of the best model (in the log: 1); resumed after step 1 with 35 of 48
EoMT: 56 of 56 weights are those of the best model (in the log: 0); resumed after step 1 with 56 of 56
RT-DETR: 214 of 242 weights are those of the best model (in the log: 1); resumed after step 1 with 206 of 234
RT-DETRv2: 214 of 242 weights are those of the best model (in the log: 1); resumed after step 1 with 206 of 234
D-FINE: 370 of 398 weights are those of the best model (in the log: 1); resumed after step 1 with 341 of 367
LW-DETR: 141 of 155 weights are those of the best model (in the log: 1); resumed after step 1 with 129 of 143
Mask2Former: 80 of 161 weights are those of the best model (in the log: 1); resumed after step 1 with 79 of 160
RF-DETR: 8 of 160 weights are those of the best model (in the log: 1); resumed after step 1 with 4 of 148
TEXT

venv/bin/python try.py > seen 2> log || { cat log; exit 1; }
cat seen
if ! diff expected seen; then
    echo "The behavior has changed: '<' is what was seen on 2026-11-30, '>' is what was seen now."
    exit 1
fi
echo "As seen on 2026-11-30."
