"""Copy-paste: masks equal to those of whole bitmaps to the pixel, the choice of classes, and the same images again."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from tailseg.annotations.dataset import Annotations
from tailseg.annotations.read import read_dataset
from tailseg.data import cutouts as cutouts_module
from tailseg.data.cutouts import MIN_PIXELS, Cutouts, open_cutouts
from tailseg.data.loader import DetectionDataset, seeded, train_loader
from tailseg.data.paste import CopyPaste, Placement, Scene
from tailseg.data.sampler import TrainSampler
from tailseg.data.settings import ColorConfig, CopyPasteConfig, JitterConfig
from tailseg.data.tiny_tail import generate
from tailseg.data.transforms import color_transform, make_sample, train_transform
from tailseg.ops.masks import decode_mask, encode_mask, mask_targets, rasterize
from tailseg.structures import Frame, Segmentation, Target

from . import naive_paste as naive

Write = Callable[..., Path]
HEIGHT, WIDTH = 60, 70


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Annotations:
    """tiny_tail's test preset: 16 images, masks as run lengths."""
    folder = tmp_path_factory.mktemp("tiny_tail")
    generate(folder, preset="test")
    return read_dataset(folder / "train.json")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def make_cutouts(generator: np.random.Generator, labels: list[int]) -> Cutouts:
    """Cut-outs of random colors: ellipses, every second one with a hole."""
    stored = []
    for number in range(len(labels)):
        height, width = generator.integers(12, 40, 2).tolist()
        y, x = np.mgrid[0:height, 0:width]
        distance = ((y - height / 2) / (height / 2 - 1)) ** 2 + ((x - width / 2) / (width / 2 - 1)) ** 2
        mask = (distance <= 1) & ((distance > 0.15) | (number % 2 == 0))
        colors = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        stored.append(np.concatenate([colors, mask[:, :, None].astype(np.uint8) * 255], axis=2))
    shapes = np.array([rgba.shape[:2] for rgba in stored])
    return Cutouts(
        pixels=np.concatenate([rgba.ravel() for rgba in stored]),
        offsets=np.cumsum([0, *(rgba.size for rgba in stored)]),
        shapes=shapes,
        sizes=shapes,
        image_sizes=np.full((len(labels), 2), 64),
        labels=np.array(labels),
        areas=np.array([(rgba[:, :, 3] > 0).sum() for rgba in stored]),
    )


def make_polygons(generator: np.random.Generator, parts: int) -> Segmentation:
    """Stars of random corners around random centers; some reach beyond the image."""
    polygons = []
    for _ in range(parts):
        angles = np.sort(generator.random(9) * 2 * np.pi)
        radii = generator.uniform(4, 22, 9)
        center = generator.uniform(0, 60, 2)
        polygons.append(center + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None])
    return tuple(polygons)


def make_ring(generator: np.random.Generator) -> Segmentation:
    """Run lengths with a hole."""
    y, x = np.mgrid[0:50, 0:55]
    center = generator.uniform(10, 40, 2)
    distance = np.hypot(y - center[0], x - center[1])
    return encode_mask((distance < generator.uniform(8, 20)) & (distance > 4))


def make_scene(seed: int) -> Scene:
    """A random image with polygons of one and of several parts, run lengths, and an object without a mask."""
    generator = np.random.default_rng(seed)
    flip = generator.random() < 0.5
    scale = generator.uniform(0.5, 1.6, 2)
    frame = Frame(-scale[0] if flip else scale[0], scale[1], WIDTH * 0.9 if flip else -5.3, generator.uniform(-9, 9))
    masks = [make_polygons(generator, 1) for _ in range(4)] + [make_polygons(generator, 3) for _ in range(3)]
    masks += [make_ring(generator) for _ in range(3)] + [()]
    boxes = []
    for mask in masks:
        bitmap = naive.make_bitmap(mask, frame, HEIGHT, WIDTH)
        box = naive.find_box(bitmap) if bitmap.any() else np.array([3, 4, 19, 25])
        boxes.append(box + generator.uniform(-1.5, 1.5, 4))  # annotated boxes are not exactly those of the masks
    limits = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])
    return Scene(
        image=torch.from_numpy(generator.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)),
        boxes=np.clip(boxes, 0, limits).astype(np.float32),
        labels=np.arange(len(masks)),
        masks=tuple(masks),
        frames=(frame,) * len(masks),
        ignore_boxes=np.array([[2.0, 3, 30, 28], [40.2, 10.7, 52.9, 20.1], [0, 50, 70, 60]], np.float32),
    )


def run_naive(scene: Scene, paste: CopyPaste, placements: list[Placement], min_visible: float) -> tuple[Any, Any, Any]:
    height, width = scene.image.shape[1:]
    things = []
    for i, mask in enumerate(scene.masks):
        box = scene.boxes[i]
        bitmap = naive.make_bitmap(mask, scene.frames[i], height, width) if mask else naive.fill_box(box, height, width)
        things.append(naive.Thing(bitmap, bitmap.copy(), int(scene.labels[i]), box, has_mask=mask != ()))
    pasted = [
        (paste.cutouts[place.index], int(paste.cutouts.labels[place.index]), place.region, place.flipped)
        for place in placements
    ]
    return naive.paste(scene.image.numpy(), things, list(scene.ignore_boxes), pasted, min_visible)


def to_scene(image: torch.Tensor, target: Target) -> Scene:
    frames = target.frames or (target.frame,) * len(target)
    boxes, labels, ignored = target.boxes.numpy(), target.labels.numpy(), target.ignore_boxes.numpy()
    return Scene(image, boxes, labels, target.masks, frames, ignored)


def assert_equal(result: Scene, expected: tuple[Any, Any, Any]) -> None:
    """Every pixel of the image and of each mask, every box and every class."""
    image, things, ignored = expected
    assert np.array_equal(result.image.numpy(), image)
    assert result.labels.tolist() == [thing.label for thing in things]
    for i, thing in enumerate(things):
        assert result.boxes[i].tolist() == pytest.approx(thing.box.tolist(), abs=1e-5)
        if thing.has_mask:
            bitmap = naive.make_bitmap(result.masks[i], result.frames[i], *image.shape[1:])
            assert np.array_equal(bitmap, thing.visible)
        else:
            assert result.masks[i] == ()
    assert result.ignore_boxes.tolist() == [pytest.approx(box.tolist(), abs=1e-5) for box in ignored]


@pytest.mark.parametrize("min_visible", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(12))
def test_masks_are_those_of_bitmaps_to_the_pixel(seed: int, min_visible: float) -> None:
    scene = make_scene(seed)
    cutouts = make_cutouts(np.random.default_rng(seed), [20, 21, 21, 22])
    config = CopyPasteConfig(probability=1, max_objects=8, scale=(0.4, 1.5), min_visible=min_visible)
    paste = CopyPaste(cutouts, config, np.ones(23))
    with seeded(seed):
        placements = paste.draw(HEIGHT, WIDTH)
    expected = run_naive(scene, paste, placements, min_visible)
    assert_equal(paste.paste(scene, placements), expected)


def test_the_random_scenes_have_every_case() -> None:
    """Otherwise the test above would prove little: covered, hidden, untouched and pasted objects that are covered."""
    counts = dict.fromkeys(("kept as annotated", "cut", "gone", "pasted cut", "pasted gone"), 0)
    for seed in range(12):
        scene = make_scene(seed)
        paste = CopyPaste(
            make_cutouts(np.random.default_rng(seed), [20, 21, 21, 22]),
            CopyPasteConfig(probability=1, max_objects=8, scale=(0.4, 1.5), min_visible=0.3),
            np.ones(23),
        )
        with seeded(seed):
            placements = paste.draw(HEIGHT, WIDTH)
        result = paste.paste(scene, placements)
        own = [i for i, label in enumerate(result.labels.tolist()) if label < 20]
        counts["gone"] += len(scene.masks) - len(own)
        for i in own:
            counts["kept as annotated" if result.frames[i] == scene.frames[0] else "cut"] += 1
        counts["pasted gone"] += len(placements) - (len(result.labels) - len(own))
        _, things, _ = run_naive(make_scene(seed), paste, placements, 0.3)
        counts["pasted cut"] += sum(thing.label >= 20 and (thing.whole != thing.visible).any() for thing in things)
    assert min(counts.values()) >= 3, counts


def test_an_object_that_another_hides_completely_goes_and_its_pixels_with_it() -> None:
    cutouts = make_cutouts(np.random.default_rng(0), [5, 6])
    paste = CopyPaste(cutouts, CopyPasteConfig(min_visible=0), np.ones(7))
    square = (np.array([[20.0, 20], [30, 20], [30, 30], [20, 30]]),)
    image = torch.zeros(3, 60, 70, dtype=torch.uint8)
    scene = Scene(
        image,
        np.array([[20, 20, 30, 30]], np.float32),
        np.array([1]),
        (square,),
        (Frame(),),
        np.zeros((0, 4), np.float32),
    )
    small, large = Placement(0, (22, 22, 27, 28), flipped=False), Placement(0, (0, 0, 60, 60), flipped=False)
    below = paste.paste(replace(scene, image=image.clone()), [large, small])
    assert below.labels.tolist() == [5, 5]  # the square is hidden, the small one is above
    above = paste.paste(replace(scene, image=image.clone()), [small, large])
    assert above.labels.tolist() == [5]
    alone = paste.paste(replace(scene, image=image.clone()), [large])
    assert torch.equal(above.image, alone.image)


def test_blurred_edges_change_colors_near_the_edge_and_no_mask() -> None:
    cutouts = make_cutouts(np.random.default_rng(1), [5])
    place = Placement(0, (10, 10, 40, 45), flipped=False)
    results = {}
    for edge in ("plain", "blurred"):
        paste = CopyPaste(cutouts, CopyPasteConfig(edge=edge), np.ones(6))
        results[edge] = paste.paste(make_scene(3), [place])
    plain, blurred = results["plain"], results["blurred"]
    assert all(map(same_mask, plain.masks, blurred.masks))
    assert np.array_equal(plain.boxes, blurred.boxes)
    mask = torch.from_numpy(naive.make_bitmap(plain.masks[-1], plain.frames[-1], HEIGHT, WIDTH)).float()[None, None]
    inside = -torch.nn.functional.max_pool2d(-mask, 5, 1, 2) > 0  # two pixels from the edge
    outside = torch.nn.functional.max_pool2d(mask, 5, 1, 2) == 0
    far = (inside | outside)[0, 0]
    assert torch.equal(plain.image[:, far], blurred.image[:, far])
    assert not torch.equal(plain.image[:, ~far], blurred.image[:, ~far])


def same_mask(one: Segmentation, other: Segmentation) -> bool:
    if isinstance(one, tuple):
        return isinstance(other, tuple) and all(map(np.array_equal, one, other))
    return one == other


def test_the_target_of_a_part_is_that_of_the_whole_image() -> None:
    """Run lengths of a part and its frame give the mask head the same target as the bitmap of the whole image."""
    generator = np.random.default_rng(2)
    bitmap = np.zeros((HEIGHT, WIDTH), dtype=bool)
    bitmap[10:32, 20:51] = generator.random((22, 31)) < 0.7
    part = encode_mask(bitmap[9:33, 19:52])
    boxes = torch.tensor([[18.0, 8, 55, 40], [20, 10, 51, 32], [25.5, 3.25, 41.75, 20.5]])
    whole = mask_targets([encode_mask(bitmap)] * 3, Frame(), boxes)
    moved = mask_targets([part] * 3, [Frame(shift_x=19, shift_y=9)] * 3, boxes)
    assert torch.equal(whole, moved)
    square = (np.array([[20.0, 20], [30, 20], [30, 30], [20, 30]]),)
    mixed = mask_targets([square, part], [Frame(2, 2), Frame(shift_x=19, shift_y=9)], boxes[:2])
    assert torch.equal(mixed[0], mask_targets([square], Frame(2, 2), boxes[:1])[0])
    assert torch.equal(mixed[1], whole[1])
    with pytest.raises(ValueError, match="one frame a mask, got 1 frames and 2 masks"):
        mask_targets([square, part], [Frame()], boxes[:2])


PIPELINES = {
    "jitter": train_transform([48], 80, 0.5, jitter=JitterConfig(size=64)),
    "resize and flip": train_transform([40, 56], 80, 0.5),
    "crop and pad": v2.Compose([v2.RandomHorizontalFlip(0.5), v2.RandomCrop((40, 50)), v2.Pad([5, 3, 7, 1])]),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_samples_are_those_of_bitmaps(name: str, tiny: Annotations) -> None:
    """The whole way: read, transform, paste."""
    paste = CopyPaste(
        open_cutouts(tiny, objects_per_class=5, max_megabytes=10),
        CopyPasteConfig(probability=1, max_objects=5),
        np.ones(tiny.num_classes),
    )
    plain, pasted = DetectionDataset(tiny, PIPELINES[name]), DetectionDataset(tiny, PIPELINES[name], paste=paste)
    touched = 0
    for index in range(5):
        image, target, info = plain[index, index]
        with seeded(index):
            record = tiny.get_record(index)
            zeros = torch.zeros(3, info.height, info.width, dtype=torch.uint8)
            data = make_sample(zeros, torch.from_numpy(record.boxes), torch.from_numpy(record.ignore_boxes))
            PIPELINES[name](data.pop("image"), data)
            placements = paste.draw(*image.shape[1:])
        scene = to_scene(image, target)
        expected = run_naive(scene, paste, placements, 0.1)
        large = [thing for thing in expected[1] if (thing.box[2:] - thing.box[:2] >= 1).all()]
        new_image, new, _ = pasted[index, index]
        got = to_scene(new_image, new)
        assert_equal(got, (expected[0], large, expected[2]))
        touched += len(placements)
    assert touched >= 5


def test_boxes_of_cut_objects_are_those_of_their_pixels(tiny: Annotations) -> None:
    """With ``tight_boxes``, to a pixel; other boxes, masks and objects are the same as without."""
    plain, tight = (DetectionDataset(tiny, PIPELINES["jitter"], tight_boxes=tight) for tight in (False, True))
    shrunk = []
    for index, seed in ((index, seed) for index in range(5) for seed in range(20)):
        image, before, _ = plain[index, seed]
        _, after, _ = tight[index, seed]
        height, width = image.shape[1:]
        assert torch.equal(before.labels, after.labels)
        for mask, old, new in zip(after.masks, before.boxes, after.boxes, strict=True):
            if not torch.equal(old, new):
                ys, xs = decode_mask(rasterize(mask, after.frame, (0, 0, width, height))).nonzero()
                pixels = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                assert (torch.stack([old[:2] - new[:2], new[2:] - old[2:]]) <= 0).all(), "a box never grows"
                assert (new - pixels).abs().max() <= 1
                assert ((old <= 0) | (old >= torch.tensor([width, height] * 2))).any(), "only a cut object's"
                shrunk.append((new - old).abs().max().item())
    assert len(shrunk) >= 20
    assert max(shrunk) > 5


def test_classes_are_drawn_in_proportion_to_their_weights() -> None:
    """Six standard deviations of a binomial distribution; a class without cut-outs is never drawn."""
    cutouts = make_cutouts(np.random.default_rng(0), [0, 0, 0, 0, 1, 3, 3])
    weights = np.array([1.0, 3.0, 9.0, 2.0])
    paste = CopyPaste(cutouts, CopyPasteConfig(probability=0.5, max_objects=4, scale=(1, 1.01)), weights)
    torch.manual_seed(0)
    draws = [paste.draw(64, 64) for _ in range(3000)]
    lengths = np.bincount([len(draw) for draw in draws], minlength=5)
    assert abs(lengths[0] - 1500) < 6 * math.sqrt(3000 / 4)
    assert (abs(lengths[1:] - 375) < 6 * math.sqrt(375)).all()
    labels = cutouts.labels[[place.index for draw in draws for place in draw]]
    total = len(labels)
    for label, share in ((0, 1 / 6), (1, 3 / 6), (2, 0), (3, 2 / 6)):
        assert abs((labels == label).sum() - share * total) <= 6 * math.sqrt(share * (1 - share) * total)
    indices = np.bincount([place.index for draw in draws for place in draw])
    assert indices[:4].min() > 0.5 * indices[:4].max()
    assert 0.4 < np.mean([place.flipped for draw in draws for place in draw]) < 0.6


def test_sizes_and_places() -> None:
    """An object of 10 x 20 pixels of an image of 64 x 64, in an image of 128 x 256."""
    cutouts = replace(make_cutouts(np.random.default_rng(0), [0]), sizes=np.array([[10, 20]]), areas=np.array([100]))
    paste = CopyPaste(cutouts, CopyPasteConfig(probability=1, max_objects=1, scale=(0.1, 2.0)), np.ones(1))
    torch.manual_seed(0)
    draws = [paste.draw(128, 256) for _ in range(500)]
    regions = np.array([place.region for draw in draws for place in draw])
    widths, heights = (regions[:, 2:] - regions[:, :2]).T
    assert heights.max() == 40  # 10 * 128 / 64 * 2
    assert (abs(widths - 2 * heights) <= 2).all()
    assert heights.min() == 5  # below it has fewer than 25 pixels
    assert MIN_PIXELS == 25
    assert any(not draw for draw in draws)
    assert regions.min() == 0
    assert regions[:, 2].max() > 250
    assert regions[:, 3].max() > 125
    assert (regions[:, 2] <= 256).all()
    assert (regions[:, 3] <= 128).all()
    large = CopyPaste(replace(cutouts, sizes=np.array([[60, 20]])), paste.config, np.ones(1))
    assert max(place.region[3] for _ in range(100) for place in large.draw(128, 256)) == 128  # 240 would not fit


def same(one: tuple[Any, Target, Any], other: tuple[Any, Target, Any]) -> bool:
    targets = one[1], other[1]
    return (
        torch.equal(one[0], other[0])
        and torch.equal(targets[0].boxes, targets[1].boxes)
        and torch.equal(targets[0].labels, targets[1].labels)
        and targets[0].frames == targets[1].frames
        and all(map(same_mask, targets[0].masks, targets[1].masks))
    )


def make_dataset(tiny: Annotations) -> DetectionDataset:
    cutouts = open_cutouts(tiny, objects_per_class=3, max_megabytes=10)
    return DetectionDataset(
        tiny,
        PIPELINES["jitter"],
        paste=CopyPaste(cutouts, CopyPasteConfig(probability=0.7), np.ones(tiny.num_classes)),
        color=color_transform(ColorConfig(hue=0.1)),
    )


def test_a_sample_depends_on_its_seed_alone(tiny: Annotations) -> None:
    dataset = make_dataset(tiny)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is watched
    first = [dataset[index, 5] for index in range(4)]
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert all(same(dataset[index, 5], first[index]) for index in (3, 1, 0, 2))
    assert not same(dataset[0, 5], dataset[0, 6])


@pytest.mark.usefixtures("one_thread")
def test_batches_of_workers_resumed_epochs_and_clean_epochs(tiny: Annotations) -> None:
    dataset, plain = make_dataset(tiny), DetectionDataset(tiny, PIPELINES["resize and flip"])
    sampler = TrainSampler(tiny, batch_size=4, seed=3)
    alone = train_loader(dataset, sampler, 4, 0, clean=plain)
    parallel = train_loader(dataset, sampler, 4, 2, clean=plain)
    whole = list(alone)
    assert any(target.frames for batch in whole for target in batch.targets)

    def equal(batch: Any, other: Any) -> bool:
        return all(map(same, zip(*items(batch), strict=True), zip(*items(other), strict=True)))

    def items(batch: Any) -> tuple[Any, Any, Any]:
        return batch.images, batch.targets, batch.infos

    assert all(map(equal, whole, parallel))
    sampler.set_epoch(0, start_step=2)
    assert all(map(equal, whole[2:], parallel))
    sampler.set_epoch(0)
    clean = list(parallel.batches(clean=True))
    assert all(map(equal, clean, train_loader(plain, sampler, 4, 0)))
    assert all(map(equal, whole, parallel))  # and back again, with the same workers
    assert not any(map(equal, clean, whole))


def test_pixels_that_belong_to_others_are_left_alone(tiny: Annotations) -> None:
    """A transform may return its input, or a view of it."""
    held: list[torch.Tensor] = []

    def crop(image: Any, target: Any) -> Any:
        held.append(image)
        held.append(image.as_subclass(torch.Tensor).clone())
        return v2.CenterCrop(40)(image, target)

    dataset = replace_transform(make_dataset(tiny), crop)
    for index in range(4):
        dataset[index, 0]
    assert all(torch.equal(held[i].as_subclass(torch.Tensor), held[i + 1]) for i in range(0, len(held), 2))


def replace_transform(dataset: DetectionDataset, transform: Any) -> DetectionDataset:
    return DetectionDataset(dataset.annotations, transform, paste=dataset.paste)


def test_cut_outs_are_the_objects(many: dict[str, Any], write: Write) -> None:
    """A square of 20 x 20 with a margin of two pixels, bright inside and dark outside; crowds and dots give none."""
    many["annotations"][0]["iscrowd"] = 1
    many["annotations"][1].update(segmentation=[[10.0, 5, 13, 5, 13, 8]], bbox=[10, 5, 3, 3], area=4.5)
    many["annotations"][2].update(segmentation=[[0.0, 0, 9, 0, 9, 7, 0, 7]], bbox=[0, 0, 9, 7], area=63)
    annotations = read_dataset(write(many, images=True))
    cutouts = open_cutouts(annotations, objects_per_class=50, max_megabytes=1)
    assert len(cutouts) == 11
    assert sorted(cutouts.areas.tolist()) == [0, 63, *[400] * 9]
    assert cutouts.labels.tolist() == sorted(cutouts.labels.tolist())
    for index in np.flatnonzero(cutouts.areas == 400).tolist():
        rgba = cutouts[index]
        assert rgba.shape == (24, 24, 4)
        expected = np.zeros((24, 24), np.uint8)
        expected[2:22, 2:22] = 255
        assert np.array_equal(rgba[:, :, 3], expected)
        assert rgba[3:21, 3:21, :3].min() > 180
        assert rgba[:1, :, :3].max() < 80
    (corner,) = np.flatnonzero(cutouts.areas == 63).tolist()
    assert cutouts[corner].shape == (9, 11, 4)  # the margin ends at the border of the image
    assert cutouts[corner][:7, :9, 3].min() == 255


def test_limits_of_the_number_and_of_the_bytes(many: dict[str, Any], write: Write) -> None:
    annotations = read_dataset(write(many, images=True))
    assert (
        len(cutouts_module.choose_objects(annotations, 4, 10**6)[0]) == 5
    )  # four of one class, the only one of another
    rows, regions, shapes = cutouts_module.choose_objects(annotations, 50, 24 * 24 * 4 * 7 + 10)
    assert len(rows) == 7
    assert (shapes == 24).all()
    assert annotations.objects.labels[rows].tolist() == [0] * 6 + [1]
    assert len(cutouts_module.choose_objects(annotations, 50, 1)[0]) == 2  # at least one of each class
    again = cutouts_module.choose_objects(annotations, 50, 24 * 24 * 4 * 7 + 10)[0]
    assert np.array_equal(rows, again)  # always the same ones
    assert regions.tolist() == [[8, 3, 32, 27]] * 7


def test_a_large_object_is_stored_smaller(many: dict[str, Any], write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutouts_module, "MAX_SIDE", 12)
    cutouts = open_cutouts(read_dataset(write(many, images=True)), objects_per_class=1, max_megabytes=1)
    assert cutouts[0].shape == (12, 12, 4)
    assert cutouts.sizes.tolist() == [[24, 24]] * 2
    assert cutouts.areas.tolist() == [400] * 2


@pytest.mark.usefixtures("one_thread")
def test_the_file_is_made_once_and_read_by_all(
    many: dict[str, Any], write: Write, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(many, images=True)
    annotations = read_dataset(path)
    limits = {"objects_per_class": 50, "max_megabytes": 1}
    made = open_cutouts(annotations, **limits, workers=2)
    first = replace(made, pixels=made.pixels.copy())
    (file,) = (home / "cutouts").glob("*.safetensors")
    with monkeypatch.context() as context:
        context.setattr(cutouts_module, "_cut_out", lambda *_: pytest.fail("it was made a second time"))
        again = open_cutouts(read_dataset(path), **limits)
        assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in cutouts_module.ARRAYS)
        assert isinstance(again.pixels.base, np.memmap) or again.pixels.location[0] == file  # mapped, not in memory
    file.write_bytes(file.read_bytes()[:-50])  # damaged: made again
    assert np.array_equal(open_cutouts(annotations, **limits).pixels, first.pixels)
    assert np.array_equal(open_cutouts(read_dataset(path), **limits).pixels, first.pixels)
    image = path.parent / "03.jpg"
    image.write_bytes((path.parent / "04.jpg").read_bytes() + b"\0")  # another image of the same name
    open_cutouts(annotations, **limits)
    open_cutouts(annotations, objects_per_class=2, max_megabytes=1)
    assert len(list((home / "cutouts").glob("*.safetensors"))) == 3


def test_images_that_cannot_be_read_give_no_cut_outs(many: dict[str, Any], write: Write) -> None:
    path = write(many, images=True)
    for number in range(12):
        if number != 4:
            (path.parent / f"{number:02}.jpg").write_bytes(b"no image")
    cutouts = open_cutouts(read_dataset(path), objects_per_class=50, max_megabytes=1)
    assert sorted(cutouts.areas.tolist()) == [*[0] * 11, 400]
    paste = CopyPaste(cutouts, CopyPasteConfig(probability=1, max_objects=3), np.ones(2))
    torch.manual_seed(0)
    labels = {int(cutouts.labels[place.index]) for _ in range(50) for place in paste.draw(100, 100)}
    assert labels == {1}  # the class of image 4 alone


def test_a_folder_that_cannot_be_written_leaves_the_cut_outs_in_memory(
    many: dict[str, Any], write: Write, home: Path
) -> None:
    home.write_text("no folder")
    annotations = read_dataset(write(many, images=True))
    with pytest.warns(UserWarning, match=r"The cut-outs for data\.paste stay in memory; set TAILSEG_HOME"):
        cutouts = open_cutouts(annotations, objects_per_class=50, max_megabytes=1)
    assert (cutouts.areas == 400).all()


def test_nothing_to_paste_is_an_error(many: dict[str, Any], write: Write) -> None:
    for annotation in many["annotations"]:
        del annotation["segmentation"]
    with pytest.raises(ValueError, match=r"data\.paste: .*set\.json has no object with a mask of 25 pixels or more"):
        open_cutouts(read_dataset(write(many, images=True)), objects_per_class=5, max_megabytes=1)
    with pytest.raises(ValueError, match=r"no object could be cut out"):
        CopyPaste(make_cutouts(np.random.default_rng(0), [0]), CopyPasteConfig(), np.zeros(1))
