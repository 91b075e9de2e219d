"""Losses of tailseg in the DETR-like models of transformers, with tiny random models on the CPU."""

import copy
import pickle

import pytest
import torch

pytest.importorskip("transformers", reason="needs uv sync --group frameworks")
pytest.importorskip("scipy", reason="the matching of transformers needs it")

from tests.interop.query_models import BOX_MODELS, MASK_MODELS, MODELS, NUM_CLASSES, SIDE, build, make_batch
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    EomtImageProcessor,
    Mask2FormerImageProcessor,
    RfDetrImageProcessor,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
)
from transformers.loss.loss_lw_detr import LwDetrHungarianMatcher
from transformers.loss.loss_rf_detr import RfDetrHungarianMatcher
from transformers.loss.loss_rt_detr import RTDetrHungarianMatcher
from transformers.models.eomt.modeling_eomt import EomtHungarianMatcher
from transformers.models.mask2former.modeling_mask2former import Mask2FormerHungarianMatcher

from tailseg.interop.detr import CLASSIFIERS, use_loss
from tailseg.interop.queries import compute_scores, set_first_bias
from tailseg.losses import DropLoss, EQLv2, GumbelCE, LDAMLoss, SigmoidCE, SoftmaxCE, VarifocalLoss
from tailseg.structures import ClassFrequency

pytestmark = pytest.mark.filterwarnings("ignore")
COUNTS = torch.tensor([100, 50, 20, 5, 2])
FREQUENCY = ClassFrequency.from_counts(COUNTS, COUNTS, 150)


def own_loss(name):
    """The loss of tailseg that is the model's own."""
    if name in MASK_MODELS:
        return SoftmaxCE(NUM_CLASSES)
    if name in ("rf_detr", "rf_detr_masks", "lw_detr"):
        return VarifocalLoss(NUM_CLASSES, alpha=1, on_positives="one")
    return VarifocalLoss(NUM_CLASSES, constant_factor=True)


def gumbel_loss(name):
    return GumbelCE(FREQUENCY, background=name in MASK_MODELS)


def compute(name, loss=None):
    """The outputs for a batch, and the gradients of all parameters."""
    model = build(name)
    if loss is not None:
        use_loss(model, loss, reset_bias=False)
    torch.manual_seed(1)  # of the points in masks, and of denoising
    output = model.train()(**make_batch(name))
    output.loss.backward()
    return output, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_the_model_has_its_own_loss_and_gradients(name):
    expected, expected_gradients = compute(name)
    output, gradients = compute(name, own_loss(name))
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=0)
    if name in BOX_MODELS:
        assert output.loss_dict.keys() == expected.loss_dict.keys()
        for key, value in expected.loss_dict.items():
            torch.testing.assert_close(output.loss_dict[key], value, rtol=2e-6, atol=1e-7)
    largest = max(each.abs().max() for each in expected_gradients if each is not None and each.numel())
    assert largest > 0.1
    for gradient, reference in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-6 * float(largest))


@pytest.mark.parametrize("name", MODELS)
def test_another_loss_changes_the_class_loss_and_nothing_else(name):
    """Without class costs in the matching: other scores match other queries."""
    parts = {}
    for loss in (own_loss(name), gumbel_loss(name)):
        model = build(name)
        model.config.class_cost = model.config.matcher_class_cost = 0.0
        use_loss(model, loss, reset_bias=False)
        if name in MASK_MODELS:
            model.criterion.matcher.cost_class = 0
        torch.manual_seed(1)
        output = model.train()(**make_batch(name))
        parts[type(loss)] = getattr(output, "loss_dict", None) or {"loss_ce": output.loss}
    own, gumbel = parts.values()
    assert own.keys() == gumbel.keys()
    for key, value in own.items():
        if "loss_ce" in key or "vfl" in key:
            assert not torch.isclose(gumbel[key], value, rtol=1e-2)
        elif "ddf" not in key and "cardinality" not in key:  # these two depend on the scores
            torch.testing.assert_close(gumbel[key], value)


@pytest.mark.parametrize("name", MODELS)
def test_the_gumbel_loss_trains_in_bfloat16(name):
    model = build(name).train()
    use_loss(model, gumbel_loss(name), reset_bias=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(10):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(**make_batch(name))
        loss, parts = output.loss, getattr(output, "loss_dict", {})
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)  # as all these models are trained
        optimizer.step()
        classes = [value.item() for key, value in parts.items() if "loss_ce" in key or "loss_vfl" in key]
        losses.append(sum(classes) if classes else loss.item())
    assert sum(losses[-3:]) / 3 < 0.8 * losses[0], losses


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("make", [own_loss, gumbel_loss])
def test_the_matching_costs_follow_the_link(name, make, monkeypatch):
    """The probability with which each matcher computes its cost is the loss's score."""
    seen = []
    for matcher in (LwDetrHungarianMatcher, RfDetrHungarianMatcher, RTDetrHungarianMatcher):
        forward = matcher.forward

        def record(self, outputs, targets, *rest, forward=forward, **options):
            seen.append(outputs["logits"].sigmoid())
            return forward(self, outputs, targets, *rest, **options)

        monkeypatch.setattr(matcher, "forward", record)
    for matcher in (Mask2FormerHungarianMatcher, EomtHungarianMatcher):
        forward = matcher.forward

        def record_masks(self, masks, logits, *labels, forward=forward):
            seen.append(logits.softmax(-1)[..., :-1] * self.cost_class / 2)  # 2 is the weight in both configs
            return forward(self, masks, logits, *labels)

        monkeypatch.setattr(matcher, "forward", record_masks)
    model, loss = build(name).train(), make(name)
    if name in MASK_MODELS:
        assert model.config.class_weight == 2
    use_loss(model, loss, reset_bias=True)
    logits = model(**make_batch(name))
    logits = logits.class_queries_logits if name in MASK_MODELS else logits.logits
    expected = compute_scores(loss, logits)
    assert expected.max() > 10 * expected.min()
    # the last layer is matched first, or last; with denoising, the last queries are the model's
    found = [each for each in seen if each.shape[1] <= expected.shape[1]]
    expected = expected[:, -found[0].shape[1] :]
    assert any(torch.allclose(each, expected, rtol=1e-4, atol=1e-7) for each in found)


@pytest.mark.parametrize("name", BOX_MODELS)
@pytest.mark.parametrize("make", [own_loss, gumbel_loss, lambda name: EQLv2(FREQUENCY, background=False)])
def test_the_post_processing_gives_the_scores_of_the_loss(name, make):
    model, loss = build(name).eval(), make(name)
    set_first_bias(model, loss, NUM_CLASSES, CLASSIFIERS)
    pixels = make_batch(name)["pixel_values"]
    raw = model(pixels).logits
    use_loss(model, loss, reset_bias=False)
    processor = (RfDetrImageProcessor if "rf_" in name or "lw_" in name else RTDetrImageProcessor)()
    results = processor.post_process_object_detection(model(pixels), threshold=0.0, target_sizes=[(SIDE, SIDE)] * 2)
    for result, logits in zip(results, raw, strict=True):
        scores, indices = loss.scores(logits).flatten().sort(descending=True)
        count = min(len(result["scores"]), int((scores > 1e-6).sum()))
        assert count > 3
        torch.testing.assert_close(result["scores"].sort(descending=True).values[:count], scores[:count])
        assert result["labels"][:3].tolist() == (indices[:3] % NUM_CLASSES).tolist()
    if make is gumbel_loss:
        assert not torch.allclose(loss.scores(raw[0]), raw[0].sigmoid(), atol=0.05)


@pytest.mark.parametrize("name", MASK_MODELS)
def test_a_softmax_leaves_the_masks_as_they_were(name):
    model = build(name).eval()
    pixels = make_batch(name)["pixel_values"]
    expected = post_process_masks(name, model(pixels))
    use_loss(model, SoftmaxCE(NUM_CLASSES), reset_bias=False)
    for result, reference in zip(post_process_masks(name, model(pixels)), expected, strict=True):
        assert torch.equal(result["segmentation"], reference["segmentation"])
        assert len(reference["segments_info"]) > 2
        assert result["segments_info"] == [
            info | {"score": pytest.approx(info["score"], abs=2e-6)} for info in reference["segments_info"]
        ]


def post_process_masks(name, output):
    sizes = [(SIDE, SIDE)] * 2
    if name == "eomt":
        size = {"shortest_edge": SIDE, "longest_edge": SIDE}
        return EomtImageProcessor(size=size).post_process_instance_segmentation(output, sizes, threshold=0.0)
    processor = Mask2FormerImageProcessor()
    return processor.post_process_instance_segmentation(output, threshold=0.0, target_sizes=sizes)


@pytest.mark.parametrize("name", MASK_MODELS)
@pytest.mark.parametrize("background", [True, False])
def test_masks_have_the_scores_of_the_loss(name, background):
    """Each score is p of the best pairs of query and class, times the mean probability inside the query's mask."""
    model, loss = build(name).eval(), GumbelCE(FREQUENCY, background=background)
    pixels = make_batch(name)["pixel_values"]
    raw = model(pixels)
    use_loss(model, loss, reset_bias=False)
    results = post_process_masks(name, model(pixels))
    side = 384 if name == "mask2former" else SIDE
    masks = torch.nn.functional.interpolate(raw.masks_queries_logits, size=(side, side), mode="bilinear")
    for result, logits, mask in zip(results, raw.class_queries_logits, masks, strict=True):
        scores, pairs = loss.scores(logits[:, : loss.num_logits]).flatten().topk(len(logits))
        assert loss.scores(logits[:, : loss.num_logits]).sum(1).max() > 1.1  # no softmax has these scores
        inside = mask > 0
        mean = (mask.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        expected = {
            (int(pair % NUM_CLASSES), round(float(score * mean[pair // NUM_CLASSES]), 4))
            for score, pair in zip(scores, pairs, strict=True)
            if inside[pair // NUM_CLASSES].any()
        }
        found = {(info["label_id"], round(info["score"], 4)) for info in result["segments_info"]}
        assert len(expected) > 3
        assert found == expected


def test_the_best_mask_of_eomt_is_covered_by_no_other():
    """Its post-processing lets later masks cover earlier ones, and all classes of a query have one mask."""
    model, loss = build("eomt").eval(), GumbelCE(NUM_CLASSES)
    use_loss(model, loss, reset_bias=False)
    output = model(make_batch("eomt")["pixel_values"])
    for result, masks, logits in zip(
        post_process_masks("eomt", output), output.masks_queries_logits, output.class_queries_logits, strict=True
    ):
        assert (logits[1:, :-1].amax(1) >= logits[:-1, :-1].amax(1)).all()
        last = torch.nn.functional.interpolate(masks[None, -1:], size=(SIDE, SIDE), mode="bilinear")[0, 0] > 0
        segment = result["segments_info"][-1]["id"]
        assert torch.equal(result["segmentation"] == segment, last)


@pytest.mark.parametrize("name", MASK_MODELS)
@pytest.mark.parametrize("make", [GumbelCE, SoftmaxCE])
def test_queries_without_an_object_have_the_weight_of_the_config(name, make):
    """The cost of all queries one by one, averaged under the weights."""
    model, loss = build(name).train(), make(NUM_CLASSES)
    model.config.no_object_weight = 0.3
    use_loss(model, loss, reset_bias=False)
    logits = torch.randn(2, 4, NUM_CLASSES + 1, generator=torch.Generator().manual_seed(0))
    indices = [(torch.tensor([0, 2]), torch.tensor([1, 0])), (torch.tensor([3]), torch.tensor([0]))]
    classes = [torch.tensor([1, 2]), torch.tensor([4])]
    labels = [2, 5, 1, 5, 5, 5, 5, 4]
    costs = torch.stack(
        [
            loss(row[None], torch.tensor([label]))["loss_cls"]
            for row, label in zip(logits.flatten(0, 1), labels, strict=True)
        ]
    )
    weights = torch.tensor([0.3 if label == 5 else 1.0 for label in labels])
    value = model.criterion.loss_labels(logits, classes, indices)["loss_cross_entropy"]
    torch.testing.assert_close(value, (costs * weights).sum() / weights.sum())


def test_a_loss_without_a_logit_of_background_leaves_the_last_output_without_gradient():
    model = build("eomt").train()
    use_loss(model, DropLoss(FREQUENCY, tail="rc"), reset_bias=True)
    model(**make_batch("eomt")).loss.backward()
    assert model.class_predictor.bias.grad[:-1].abs().min() > 0
    assert model.class_predictor.bias.grad[-1] == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_first_bias_is_set_in_every_classifier(name):
    model = build(name)
    use_loss(model, gumbel_loss(name), reset_bias=True)
    outputs = NUM_CLASSES + (name in MASK_MODELS)
    biases = [
        module.bias
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == outputs and "layers" not in key
    ]
    assert len(biases) >= (1 if name in MASK_MODELS else 3)
    for bias in biases:
        assert bias.tolist() == [-2.0] * outputs


def test_the_state_of_a_loss_is_saved_copied_and_changed_in_training_only():
    model = build("rt_detr")
    use_loss(model, EQLv2(FREQUENCY, background=False), reset_bias=True)
    model.eval()(**make_batch("rt_detr"))
    assert model.class_loss.gradient_sums.sum() == 0
    model.train()(**make_batch("rt_detr"))
    assert model.class_loss.gradient_sums.sum() > 0
    assert torch.equal(model.state_dict()["class_loss.gradient_sums"], model.class_loss.gradient_sums)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        before = model.class_loss.gradient_sums.clone()
        copied(**make_batch("rt_detr"))
        assert torch.equal(model.class_loss.gradient_sums, before)
        assert copied.class_loss.gradient_sums.sum() > before.sum()


def test_a_saved_model_gives_its_scores_again(tmp_path):
    model, loss = build("rf_detr").eval(), gumbel_loss("rf_detr")
    use_loss(model, loss, reset_bias=True)
    pixels = make_batch("rf_detr")["pixel_values"]
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    use_loss(loaded, loss, reset_bias=False)
    torch.testing.assert_close(loaded(pixels).logits, model(pixels).logits)


def test_one_model_changes_no_other():
    expected = compute("rf_detr")[0].loss
    compute("rf_detr", gumbel_loss("rf_detr"))
    assert compute("rf_detr")[0].loss == expected


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"rf_detr_masks"}))
def test_images_without_objects(name):
    """Not in RF-DETR with masks: transformers' own loss of masks is then an empty tensor, and so is the sum."""
    model = build(name).train()
    use_loss(model, gumbel_loss(name), reset_bias=True)
    batch = make_batch(name)
    if name in MASK_MODELS:
        batch = {key: [each[:0] for each in value] if key.endswith("labels") else value for key, value in batch.items()}
    else:
        batch["labels"] = [{key: value[:0] for key, value in each.items()} for each in batch["labels"]]
    loss = model(**batch).loss
    loss.backward()
    assert loss.isfinite()


def detr():
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    return DetrForObjectDetection(
        DetrConfig(
            backbone_config=backbone, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=4, use_timm_backbone=False,
            use_pretrained_backbone=False, backbone=None, num_labels=NUM_CLASSES,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "loss", "message"),
    [
        (lambda: build("rf_detr"), SigmoidCE(7), r"has 5 classes .* got SigmoidCE of 7 classes"),
        (lambda: build("rf_detr"), GumbelCE(5), r"5 logits, got GumbelCE .* with 6 logits: .*background=False"),
        (lambda: build("rt_detr"), SoftmaxCE(5), "no output for 'no object' .* which SoftmaxCE cannot"),
        (lambda: build("rt_detr"), LDAMLoss(FREQUENCY), "which LDAMLoss cannot: take a loss with the method dense"),
        (lambda: build("eomt"), SoftmaxCE(6), r"5 or 6 logits, got SoftmaxCE of 6 classes"),
        (detr, GumbelCE(5, background=False), "DetrForObjectDetection is not supported: use_loss takes RfDetr"),
    ],
)
def test_what_does_not_fit_is_an_error(make, loss, message):
    with pytest.raises(ValueError, match=message):
        use_loss(make(), loss, reset_bias=True)


@pytest.mark.parametrize("name", ["rf_detr", "mask2former"])
def test_a_second_loss_is_an_error(name):
    model = build(name)
    use_loss(model, gumbel_loss(name), reset_bias=True)
    with pytest.raises(ValueError, match="has a loss of tailseg already: build or load the model again"):
        use_loss(model, gumbel_loss(name), reset_bias=True)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("label", [-1, NUM_CLASSES])
def test_a_class_that_the_loss_has_not_is_an_error(name, label):
    """The class C would be no object in a model that has an output for it."""
    model, batch = build(name).train(), make_batch(name)
    use_loss(model, gumbel_loss(name), reset_bias=True)
    classes = batch["class_labels"][1] if name in MASK_MODELS else batch["labels"][1]["class_labels"]
    classes[0] = label
    with pytest.raises(ValueError, match="the loss has the classes 0 .. 4: number the classes from 0"):
        model(**batch)


def test_a_tuple_is_an_error():
    model = build("rf_detr").train()
    use_loss(model, gumbel_loss("rf_detr"), reset_bias=True)
    batch = make_batch("rf_detr")
    with pytest.raises(TypeError, match="call it with return_dict=True"):
        model.eval()(batch["pixel_values"], return_dict=False)
