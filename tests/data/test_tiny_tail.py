"""tiny_tail: planned counts exactly, exact visible masks, a genuine LVIS v1 file, the same bytes from the same seed."""

import json
import threading
from collections import Counter
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from tailseg.data.tiny_tail import PRESETS, generate, is_tiny_tail, prepare
from tailseg.data.tiny_tail.plan import draw_class_sets, draw_negatives
from tailseg.data.tiny_tail.scene import Figure, _paint, draw_scene, encode_segmentation
from tailseg.data.tiny_tail.shapes import JUDGE_SHAPES, PRETRAIN_SHAPES, SHAPES, draw_blob, draw_pose, get_outline
from tailseg.data.tiny_tail.surfaces import JUDGE_SURFACES, PRETRAIN_SURFACES, SURFACES
from tailseg.structures import frequency_group

SPLITS = ("train", "val")
ALL_SHAPES = SHAPES | PRETRAIN_SHAPES | JUDGE_SHAPES
ALL_SURFACES = SURFACES | PRETRAIN_SURFACES | JUDGE_SURFACES


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("tiny_tail") / "test", preset="test")


@pytest.fixture(scope="module")
def content(drawn):
    return {split: json.loads((drawn / f"{split}.json").read_text()) for split in SPLITS}


def decoded(annotation, image):
    """The mask as pycocotools reads it."""
    runs = annotation["segmentation"]
    if isinstance(runs, list):
        runs = coco_mask.merge(coco_mask.frPyObjects(runs, image["height"], image["width"]))
    return coco_mask.decode(runs).astype(bool)


def by_image(content):
    """Every image record with its annotations."""
    return [(i, [a for a in content["annotations"] if a["image_id"] == i["id"]]) for i in content["images"]]


# ---- presets


@pytest.mark.parametrize(
    ("preset", "groups"), [("full", (34, 47, 42)), ("judge", (34, 47, 42)), ("demo", (11, 15, 14))]
)
def test_groups_are_as_many_as_documented(preset, groups):
    counted = Counter(frequency_group(each.train_count) for each in PRESETS[preset].classes())
    assert (counted["r"], counted["c"], counted["f"]) == groups


def test_full_has_lvis_shares_and_a_flatter_validation_draw():
    classes = PRESETS["full"].classes()
    assert len(classes) == len({each.name for each in classes}) == 123
    assert [each.name for each in classes] == sorted(each.name for each in classes)
    counts = [each.train_count for each in classes]
    assert (min(counts), max(counts)) == (1, 380)
    assert min(each.val_count for each in classes) == 8
    assert max(each.val_count for each in classes) == 24


@pytest.mark.parametrize("preset", ["full", "judge", "demo"])
def test_a_rare_class_shares_its_shape_with_one_frequent_class_and_its_surface_with_another(preset):
    classes = PRESETS[preset].classes()
    frequent = [each for each in classes if each.train_count > 100]
    for rare in (each for each in classes if each.train_count <= 10):
        assert any(rare.shape == each.shape and rare.surface != each.surface for each in frequent), rare.name
        assert any(rare.surface == each.surface and rare.shape != each.shape for each in frequent), rare.name


@pytest.mark.parametrize("own", ["pretrain", "judge"])
def test_the_pretraining_and_judging_presets_share_no_shape_and_no_surface_with_the_others(own):
    preset = PRESETS[own]
    for name, other in PRESETS.items():
        if name != own:
            assert set(preset.shapes).isdisjoint(other.shapes)
            assert set(preset.surfaces).isdisjoint(other.surfaces)


def test_the_classes_of_the_pretraining_preset_are_balanced():
    assert len({each.train_count for each in PRESETS["pretrain"].classes()}) == 1


def test_the_judging_preset_has_the_long_tail_of_full():
    full, judge = PRESETS["full"], PRESETS["judge"]
    assert (judge.train_counts, judge.val_counts) == (full.train_counts, full.val_counts)
    assert (judge.train_images, judge.val_images) == (full.train_images, full.val_images)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(1, 40), st.integers(0, 2**32))
def test_class_sets_meet_any_planned_counts_exactly(data, num_images, seed):
    counts = data.draw(st.lists(st.integers(0, num_images), min_size=1, max_size=20))
    sets = draw_class_sets(counts, num_images, np.random.default_rng(seed))
    assert len(sets) == num_images
    assert all(len(each) == len(set(each)) for each in sets)
    assert [sum(label in each for each in sets) for label in range(len(counts))] == counts


def test_class_sets_of_full_are_of_like_size():
    counts = [each.train_count for each in PRESETS["full"].classes()]
    sizes = [len(each) for each in draw_class_sets(counts, 2100, np.random.default_rng(0))]
    assert np.mean([3 <= size <= 7 for size in sizes]) > 0.9
    assert 1 <= min(sizes) <= max(sizes) <= 10


def test_negatives_are_a_quarter_of_the_absent_classes():
    rng = np.random.default_rng(0)
    assert draw_negatives([], rng) == []
    assert len(draw_negatives([7], rng)) == 1
    assert set(draw_negatives(list(range(20, 40)), rng)) < set(range(20, 40))


# ---- the files


@pytest.mark.parametrize("split", SPLITS)
def test_every_record_has_lvis_fields_and_its_image(drawn, content, split):
    content = content[split]
    assert set(content) == {"info", "licenses", "images", "annotations", "categories"}
    for image in content["images"]:
        assert image["file_name"] == f"{split}/{image['id']:06d}.jpg"
        assert image["coco_url"] == f"tiny_tail/{image['file_name']}"
        with Image.open(drawn / image["file_name"]) as file:
            assert (file.format, file.mode, file.size) == ("JPEG", "RGB", (image["width"], image["height"]))
    assert [category["id"] for category in content["categories"]] == list(range(1, 13))
    fields = {"id", "name", "synset", "synonyms", "def", "frequency", "image_count", "instance_count"}
    assert all(set(category) == fields for category in content["categories"])
    fields = {"id", "image_id", "category_id", "bbox", "area", "segmentation"}
    assert all(set(annotation) == fields for annotation in content["annotations"])
    ids = [annotation["id"] for annotation in content["annotations"]]
    assert len(ids) == len(set(ids))


def test_image_ids_of_the_draws_differ(content):
    train, val = ({image["id"] for image in content[split]["images"]} for split in SPLITS)
    assert len(train) == 16
    assert len(val) == 8
    assert train.isdisjoint(val)


def test_counts_are_the_planned_ones_and_speak_of_the_training_draw_in_both_files(content):
    assert content["train"]["categories"] == content["val"]["categories"]
    plan = PRESETS["test"].classes()
    for split, planned in (("train", [c.train_count for c in plan]), ("val", [c.val_count for c in plan])):
        pairs = {(a["category_id"], a["image_id"]) for a in content[split]["annotations"]}
        assert [sum(pair[0] == i for pair in pairs) for i in range(1, 13)] == planned
    instances = Counter(a["category_id"] for a in content["train"]["annotations"])
    for category, each in zip(content["train"]["categories"], plan, strict=True):
        assert category["name"] == each.name
        assert category["image_count"] == each.train_count
        assert category["instance_count"] == instances[category["id"]]
        assert category["frequency"] == frequency_group(each.train_count)


@pytest.mark.parametrize("split", SPLITS)
def test_negative_classes_are_absent_and_not_exhaustive_ones_present(content, split):
    for image, annotations in by_image(content[split]):
        present = {annotation["category_id"] for annotation in annotations}
        negative = set(image["neg_category_ids"])
        assert negative
        assert negative.isdisjoint(present)
        assert len(negative) < 12 - len(present)
        assert set(image["not_exhaustive_category_ids"]) <= present
    assert split == "val" or any(image["not_exhaustive_category_ids"] for image in content[split]["images"])


@pytest.mark.parametrize("split", SPLITS)
def test_masks_are_disjoint_and_agree_with_box_and_area(content, split):
    kinds = Counter()
    for image, annotations in by_image(content[split]):
        total = np.zeros((image["height"], image["width"]), dtype=int)
        for annotation in annotations:
            mask = decoded(annotation, image)
            runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
            assert annotation["area"] == mask.sum() >= 60
            assert annotation["bbox"] == coco_mask.toBbox(runs).tolist()
            total += mask
            kinds[type(annotation["segmentation"])] += 1
        assert total.max() == 1
    assert kinds[list] > 5
    assert kinds[dict] > 5


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_images(drawn, tmp_path):
    again = generate(tmp_path / "again", preset="test", seed=0)
    files = sorted(path.relative_to(drawn) for path in drawn.rglob("*.*"))
    assert len(files) == 2 + 16 + 8
    assert all((drawn / file).read_bytes() == (again / file).read_bytes() for file in files)
    other = generate(tmp_path / "other", preset="test", seed=1)
    assert all((drawn / file).read_bytes() != (other / file).read_bytes() for file in files)


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")
@pytest.mark.parametrize("split", SPLITS)
def test_lvis_api_reads_the_files_and_gives_the_ground_truth_full_marks(drawn, content, split, monkeypatch):
    monkeypatch.setattr(np, "float", float, raising=False)  # lvis-api was written for an older NumPy
    lvis = pytest.importorskip("lvis")
    images = {image["id"]: image for image in content[split]["images"]}
    results = []
    for annotation in content[split]["annotations"]:
        mask = decoded(annotation, images[annotation["image_id"]])
        runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        results.append({**kept, "score": 0.9, "segmentation": {**runs, "counts": runs["counts"].decode()}})
    truth = lvis.LVIS(str(drawn / f"{split}.json"))
    for kind in ("bbox", "segm"):
        evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, json.loads(json.dumps(results))), kind)
        evaluation.run()
        figures = evaluation.get_results()
        assert figures["AP"] == figures["APr"] == figures["APc"] == pytest.approx(1.0)


# ---- drawing


@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_a_pose_maps_points_there_and_back(shape):
    rng, contours = np.random.default_rng(0), get_outline(shape)
    assert np.abs(np.concatenate(contours)).max() == pytest.approx(1)
    pose = draw_pose(rng, contours, 50.0)
    for contour in contours:
        placed = pose.to_image(contour)
        back = pose.to_local(*placed.astype(np.float32).T)
        # float32 at coordinates of about 50 pixels: 4e-6 pixels, a few operations on
        np.testing.assert_allclose(np.stack(back, axis=1), contour, atol=1e-4)
    assert np.ptp(pose.to_image(contours[0]), axis=0).max() == pytest.approx(50.0)


@pytest.mark.parametrize(("shape", "surface"), list(zip(ALL_SHAPES, cycle(ALL_SURFACES), strict=False)))
def test_a_figure_is_painted_where_its_mask_says(shape, surface):
    """What a figure changes in an empty image is its mask, up to the pixels that the outline crosses."""
    rng = np.random.default_rng(1)
    for _ in range(4):
        image, (thing,) = draw_scene([(shape, surface)], (surface,), rng)
        canvas = np.full((image.height, image.width, 3), -9.0, dtype=np.float32)  # a value that no color has
        _paint(canvas, thing.figure, rng)
        differ = int(((canvas > -4.5).all(axis=2) ^ thing.covered).sum())
        perimeter = sum(np.linalg.norm(np.roll(c, -1, axis=0) - c, axis=1).sum() for c in thing.figure.contours)
        # Sub-pixels decide otherwise than whole pixels on at most a third of those that the outline crosses.
        assert differ < 0.35 * perimeter


def test_later_objects_hide_earlier_ones_but_never_most_of_them():
    rng = np.random.default_rng(2)
    _, things = draw_scene([("disc", "plain")] * 12, ("plain",), rng)
    hidden = 0
    for i, thing in enumerate(things):
        above = np.logical_or.reduce([other.covered for other in things[i + 1 :]], initial=False)
        np.testing.assert_array_equal(thing.visible, thing.covered & ~above)
        assert thing.visible.sum() >= 0.4 * thing.full_area
        hidden += bool(thing.visible.sum() < thing.covered.sum())
    assert hidden > 0


def test_only_a_simple_outline_in_full_view_is_stored_as_a_polygon():
    rng = np.random.default_rng(3)
    _, (ring,) = draw_scene([("ring", "plain")], ("plain",), rng)
    assert isinstance(encode_segmentation(ring), dict)
    hole = np.argwhere(ring.visible).mean(axis=0).round().astype(int)
    assert not ring.visible[tuple(hole)]
    kinds = {True: 0, False: 0}
    for _ in range(20):
        _, (star,) = draw_scene([("star", "plain")], ("plain",), rng)
        height, width = star.covered.shape
        points = star.figure.contours[0]
        whole = points.min() >= 0 and points[:, 0].max() <= width and points[:, 1].max() <= height
        assert isinstance(encode_segmentation(star), list) == whole
        kinds[bool(whole)] += 1
    assert min(kinds.values()) > 0


def test_a_figure_outside_the_image_paints_nothing():
    rng = np.random.default_rng(4)
    canvas = np.zeros((20, 20, 3), dtype=np.float32)
    contours = draw_blob(rng)
    pose = draw_pose(rng, contours, 10.0)
    _paint(canvas, Figure("plain", (pose.to_image(contours[0]) + 100,), pose), rng)
    assert not canvas.any()


# ---- prepare


def test_prepare_draws_once_under_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TAILSEG_HOME", str(tmp_path))
    train, val = prepare("tiny_tail:test")
    assert train.is_file()
    assert val.is_file()
    assert train.is_relative_to(tmp_path)
    drawn = train.stat().st_mtime_ns
    assert prepare("tiny_tail:test:0") == (train, val)
    assert train.stat().st_mtime_ns == drawn
    assert prepare("tiny_tail:test:1")[0] != train
    assert not list(tmp_path.glob(".*")), "no scratch folder is left"


def test_callers_at_the_same_time_get_the_same_complete_folder(tmp_path):
    start, results = threading.Barrier(3), []

    def ask():
        start.wait()
        results.append(prepare("tiny_tail:test", home=tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len(set(results)) == 1
    assert len(json.loads(results[0][0].read_text())["images"]) == 16
    assert [path.name for path in tmp_path.iterdir()] == [results[0][0].parent.name]


def test_a_failed_draw_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        prepare("tiny_tail:test", home=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spec", ["tiny_tail:tset", "tiny_tail:7"])
def test_an_unknown_preset_is_answered_with_the_presets(spec, tmp_path):
    with pytest.raises(ValueError, match="full, demo, test, pretrain"):
        prepare(spec, home=tmp_path)


@pytest.mark.parametrize(
    "spec", ["", "tiny", "tiny_tail:", "tiny_tail:test:x", "tiny_tail:test:-1", "tiny_tail:test:0:0"]
)
def test_a_spec_of_another_form_is_answered_with_the_form(spec, tmp_path):
    with pytest.raises(ValueError, match=r"tiny_tail\[:preset\[:seed\]\]"):
        prepare(spec, home=tmp_path)


def test_generate_refuses_a_folder_with_files_and_a_negative_seed(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="new or empty folder"):
        generate(tmp_path, preset="test")
    with pytest.raises(ValueError, match="seed of at least 0"):
        generate(tmp_path / "new", preset="test", seed=-1)


@pytest.mark.parametrize(
    ("spec", "answer"), [("tiny_tail", True), ("tiny_tail:demo:3", True), ("tiny_tail/train.json", False)]
)
def test_is_tiny_tail(spec, answer):
    assert is_tiny_tail(spec) is answer


def test_a_home_that_cannot_be_written_is_told_with_its_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file cannot be written \(File exists\).*Set TAILSEG_HOME to a writable"):
        prepare("tiny_tail:test", home=tmp_path / "file")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OSError, match=r"home cannot be written \(Permission denied\).*Set TAILSEG_HOME"):
        prepare("tiny_tail:test", home=tmp_path / "home")
