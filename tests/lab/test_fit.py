"""Fits on kept features against the whole network: the same losses, gradients and detections."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from tailseg.annotations.dataset import Annotations
from tailseg.data.loader import DetectionDataset, Loader
from tailseg.data.sampler import EvaluationSampler
from tailseg.data.transforms import evaluation_transform
from tailseg.lab import features
from tailseg.lab.features import Collector, Features, Views, collect, load, save
from tailseg.lab.fit import build_head, detect, measure_logits, read_views, train_head
from tailseg.lab.trials import Bench, Candidate, Trial, plan_steps, run_all, shorten_warmup
from tailseg.models.box_head import BoxHead
from tailseg.models.sampling import sample_rois
from tailseg.recipes.build import build_data, build_model
from tailseg.recipes.recipe import Recipe, SGDConfig
from tailseg.recipes.tiny import tiny_gumbel
from tailseg.structures import ClassFrequency
from tailseg.training.run import build_augmentation, build_sampler

INPUTS = 8 * 49
"""Pooled values of a region."""


class Setup(NamedTuple):
    collector: Collector
    recipe: Recipe
    train: Annotations
    val: Annotations
    kept: Features
    folder: Path


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    """A small network with random weights, and all of its features in float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILSEG_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(features, "STORED", np.float32)
        recipe = tiny_gumbel()
        model = replace(
            recipe.model,
            backbone=replace(recipe.model.backbone, weights="none", base_width=8),
            fpn=replace(recipe.model.fpn, channels=8),
            box=replace(recipe.model.box, hidden=16),
            mask=None,
        )
        data = replace(
            recipe.data, train="tiny_tail:test", val="tiny_tail:test", short_sides=(64,), test_short_side=64, workers=0
        )
        recipe = replace(recipe, data=data, model=model)
        train, val = build_data(recipe)
        torch.manual_seed(0)
        network = build_model(recipe, ClassFrequency.from_class_counts(train.frequency)).eval()
        nn.init.normal_(network.box_head.classifier.weight, std=0.3)  # equal weights would give equal scores
        collector = Collector(network, recipe, torch.device("cpu"), "float32")
        folder = tmp_path_factory.mktemp("features")
        save(collect(collector, train, val, folder, views=2, directions=INPUTS, images=100), folder)
        yield Setup(collector, recipe, train, val, load(folder), folder)


def test_the_networks_own_head_detects_what_the_network_detects(setup: Setup) -> None:
    network, data = setup.collector.model, setup.recipe.data
    ids = np.array([category.id for category in setup.val.categories])

    (found,) = detect(
        rotated(setup.collector.head, setup), setup.kept.val, [network.box_head.loss], network.config.postprocess, ids
    )

    dataset = DetectionDataset(setup.val, evaluation_transform(data.test_short_side, data.max_long_side))
    rows = []
    for batch in Loader(dataset, EvaluationSampler(len(dataset)), data.batch_size, 0):
        sizes = [(info.height, info.width) for info in batch.infos]
        for info, detections in zip(batch.infos, network(batch.images, original_sizes=sizes), strict=True):
            rows += detections.to_coco(info.image_id, ids.tolist())
    assert len(rows) > 100
    assert found.image_ids.tolist() == [row["image_id"] for row in rows]
    assert found.category_ids.tolist() == [row["category_id"] for row in rows]
    np.testing.assert_allclose(found.scores, [row["score"] for row in rows], rtol=1e-4)
    np.testing.assert_allclose(found.boxes, [row["bbox"] for row in rows], atol=0.02)


def test_steps_on_kept_features_are_those_of_the_whole_network_with_fixed_layers(setup: Setup) -> None:
    """The naive way: the images again, the network's proposals, its samples and losses, and SGD written out."""
    collector, recipe = setup.collector, setup.recipe
    order = setup.kept.train.images.tolist()
    loader = Loader(
        DetectionDataset(setup.train, build_augmentation(recipe.data)), Views(order, 1), recipe.data.batch_size, 0
    )
    batches = [batch for _, batch in zip(range(2), loader, strict=False)]
    optim = SGDConfig(lr=0.2, epochs=1, milestones=(), warmup_iterations=0, momentum=0.0, weight_decay=0.01)
    head = deepcopy(collector.head)
    for batch in batches:
        with torch.no_grad():
            images = collector.model.batcher(batch.images)
            pyramid = collector.model.fpn(collector.model.backbone(images.tensors))
            collector.model.rpn.train()
            proposals = collector.model.rpn.proposals(collector.model.rpn(pyramid), images.sizes)
            samples = sample_rois(proposals, batch.targets, setup.train.num_classes, head.config)
        loss = sum(head.losses(pyramid, samples).values())
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(head.parameters(), gradients, strict=True):
                parameter -= 0.1 * (gradient + 0.01 * parameter)  # the rate of 8 of 16 images

    fitted = rotated(collector.head, setup)
    steps = [list(range(start, start + 8)) for start in (0, 8)]
    train_head(fitted, setup.kept.train, steps, replace(recipe, optim=optim), steps_per_epoch=2)

    assert not torch.allclose(head.fc2.weight, collector.head.fc2.weight, atol=1e-4)
    for name, parameter in head.named_parameters():
        torch.testing.assert_close(fitted.get_parameter(name), parameter, rtol=1e-3, atol=1e-5, msg=name)


def rotated(head: BoxHead, setup: Setup) -> BoxHead:
    """The network's head for its features; all directions are kept, so they are not rotated."""
    assert setup.kept.kept == 1
    copied = build_head(deepcopy(head.loss), head.config, setup.kept)
    copied.load_state_dict(head.state_dict())
    return copied


def test_fewer_directions_are_those_of_the_largest_moment(setup: Setup, tmp_path: Path) -> None:
    few = collect(setup.collector, setup.train, setup.val, tmp_path, views=1, directions=20, images=100)

    rows = setup.kept.train.x[: len(few.train.x)]
    moments = np.linalg.eigvalsh(rows.astype(np.float64).T @ rows)[::-1]
    kept = np.square(few.train.x.astype(np.float64)).sum()
    # The directions come from the same images with another augmentation.
    assert 0.97 * moments[:20].sum() < kept <= 1.001 * moments[:20].sum()
    assert few.kept == pytest.approx(kept / moments.sum(), abs=0.02)

    # The first layer starts as that of all directions.
    torch.manual_seed(0)
    config = replace(setup.collector.head.config, hidden=2000)
    weights = build_head(setup.collector.head.loss, config, few).fc1.weight.detach()

    assert weights.shape == (2000, 20)
    assert float(weights.var()) == pytest.approx(1 / (3 * INPUTS), rel=0.05)


def test_regions_are_stored_as_they_were_sampled(setup: Setup) -> None:
    x, samples = read_views(setup.kept.train, [3, 5], torch.device("cpu"))

    assert len(x) == sum(len(sample.boxes) for sample in samples)
    for sample in samples:
        background = setup.train.num_classes
        assert (sample.positive_labels < background).all()
        assert (sample.labels[sample.num_positive :] == background).all()
        assert (sample.object_boxes[:, 2:] > sample.object_boxes[:, :2]).all()


def test_the_steps_follow_the_sampler(setup: Setup) -> None:
    recipe = replace(setup.recipe, data=replace(setup.recipe.data, repeat_threshold=0.9))
    sampler = build_sampler(setup.train, recipe)
    steps = sampler.steps_per_epoch
    sampler.set_epoch(0)
    expected = sampler.order().tolist()
    sampler.set_epoch(1)
    expected += sampler.order().tolist()

    planned = list(plan_steps(setup.train, recipe, setup.kept.train.images, 2 * steps, seed=0))

    views = [view for step in planned for view in step]
    assert setup.kept.train.images[views].tolist() == expected
    assert len(set(views)) > len(set(expected))  # both views of the images are used


def test_the_logits_that_logn_needs(setup: Setup) -> None:
    head = rotated(setup.collector.head, setup)

    statistics = measure_logits(head, setup.kept.train)

    with torch.no_grad():
        logits = head.classifier(head.embed(torch.from_numpy(np.array(setup.kept.train.x)))).numpy().astype(np.float64)
    assert statistics.num_regions == len(logits)
    np.testing.assert_allclose(statistics.means, logits[:, : setup.train.num_classes].mean(0), rtol=1e-5)
    np.testing.assert_allclose(statistics.deviations, logits[:, : setup.train.num_classes].std(0), rtol=1e-5)


def test_classes_that_were_not_looked_for_are_kept(setup: Setup) -> None:
    assert setup.kept.train.unverified.shape == (0, setup.train.num_classes)
    hidden = np.zeros((len(setup.kept.train.images), setup.train.num_classes), bool)
    hidden[3, 1] = True

    _, samples = read_views(replace(setup.kept.train, unverified=hidden), [3, 5], torch.device("cpu"))

    assert [sample.unverified.nonzero().flatten().tolist() for sample in samples] == [[1], []]


def test_the_warm_up_is_at_most_a_fifth_of_the_steps() -> None:
    optim = SGDConfig(lr=0.16, warmup_iterations=500)

    assert shorten_warmup(optim, 100).warmup_iterations == 20
    assert shorten_warmup(optim, 10_000) == optim


def test_a_fit_in_this_process_has_one_thread_as_in_others(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(Bench, "run", lambda *_: counts.append(torch.get_num_threads()))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(run_all(Bench.__new__(Bench), [Trial(Candidate("gumbel"), 0)], workers=4))
        assert (counts, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(threads)
