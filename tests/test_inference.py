"""A trained model on images, used from Python."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tailseg.annotations.image_files import ImageError
from tailseg.data.tiny_tail import generate
from tailseg.detection.recalibration import save
from tailseg.inference import Calibration, Detections, Predictor, Setting, calibrate
from tailseg.recipes import RECIPES, Recipe
from tailseg.recipes.saved import save_recipe
from tailseg.training.checkpoint import CheckpointError
from tailseg.training.loop import train


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A very small network on the smallest draw of tiny_tail, one epoch, in a folder of its own."""
    folder = tmp_path_factory.mktemp("inference")
    drawn = generate(folder / "data", preset="test")
    base = RECIPES["tiny_gumbel"]()
    backbone = replace(base.model.backbone, weights="none", base_width=8, frozen_stages=0)
    return replace(
        base,
        data=replace(
            base.data,
            train=str(drawn / "train.json"),
            val=str(drawn / "val.json"),
            short_sides=(64,),
            test_short_side=64,
            workers=0,
        ),
        model=replace(
            base.model,
            backbone=backbone,
            fpn=replace(base.model.fpn, channels=8),
            postprocess=replace(base.model.postprocess, max_detections=20),
        ),
        optim=replace(base.optim, epochs=1, milestones=()),
        run=replace(base.run, out=str(folder / "run")),
    )


@pytest.fixture(scope="module")
def run(recipe: Recipe) -> Path:
    """Folder of the trained run."""
    train(recipe)
    return Path(recipe.run.out)


@pytest.fixture
def image(recipe: Recipe) -> Path:
    """One image file."""
    return min((Path(recipe.data.train).parent / "val").iterdir())


def test_detections_are_in_the_pixels_of_the_file(run: Path, image: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_run(run)
    with Image.open(image) as picture:
        picture.resize((3 * picture.width, 2 * picture.height)).save(tmp_path / "large.png")
        width, height = picture.size
    small, large = predictor.predict([image, tmp_path / "large.png"])
    assert (small[0].image_id, large[0].image_id) == (1, 2)
    assert (small[1].height, small[1].width) == (height, width)
    assert (large[0].height, large[0].width) == (2 * height, 3 * width)
    for info, found in (small, large):
        assert found.masks is not None
        assert all(mask["size"] == [info.height, info.width] for mask in found.masks)
        rounding = 1e-3  # boxes are clipped to the resized image, then scaled back in float32
        assert found.boxes[:, 0::2].max() <= info.width + rounding
        assert found.boxes[:, 1::2].max() <= info.height + rounding
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_a_run_needs_nothing_but_its_checkpoint(run: Path, recipe: Recipe, image: Path, tmp_path: Path) -> None:
    (copy := tmp_path / "only.pt").write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    predictor, original = Predictor(copy), Predictor.from_run(run)
    pixels = predictor.read(image)
    assert predictor.names == original.names
    assert predictor.recipe == recipe
    assert torch.equal(predictor.detect(pixels).boxes, original.detect(pixels).boxes)
    assert Predictor.from_run(copy).file == copy


def test_best_and_last(run: Path) -> None:
    assert Predictor.from_run(run).file.name == "best.pt"
    assert Predictor.from_run(run, checkpoint="last").file.name.startswith("step_")


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no run in {tmp_path}"):
        Predictor.from_run(tmp_path)


def test_an_unreadable_image_is_named(run: Path, image: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(image.read_bytes()[:100])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        list(Predictor.from_run(run).predict([tmp_path / "cut.jpg"]))


def test_predict_takes_paths_alone(run: Path, image: Path) -> None:
    predictor = Predictor.from_run(run)
    with pytest.raises(TypeError, match="expects a list of paths, got the path a.jpg"):
        next(predictor.predict("a.jpg"))
    with pytest.raises(TypeError, match=r"of the type ndarray instead of a path: .* predictor\(image\)$"):
        next(predictor.predict(iter([predictor.read(image).numpy()])))  # an iterator passes the tests' type checks


def test_the_saved_recipe_is_not_needed(run: Path, recipe: Recipe) -> None:
    (run / "recipe.json").unlink()
    try:
        assert Predictor.from_run(run).recipe == recipe
    finally:
        save_recipe(recipe, run / "recipe.json")


def assert_equal(one: Detections, other: Detections) -> None:
    """Equal to the bit."""
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.scores, other.scores)
    assert torch.equal(one.labels, other.labels)
    assert one.masks == other.masks


@pytest.fixture
def calibrated(run: Path, tmp_path: Path) -> Path:
    """A copy of the run with a calibration that changes scores much."""
    copied = shutil.copytree(run, tmp_path / "calibrated")
    save(Calibration(Setting("NorCal", 0.8)), copied / "calibration.json")
    return copied


def test_the_same_picture_in_every_form_gives_the_same_detections(run: Path, image: Path) -> None:
    predictor = Predictor.from_run(run)
    pixels = np.array(Image.open(image).convert("RGB"))
    with Image.open(image) as picture:
        forms = [
            image,
            str(image),
            picture,
            picture.convert("RGBA"),
            pixels,
            pixels / 255,
            pixels.astype(np.float32),
            torch.from_numpy(pixels).permute(2, 0, 1),
            torch.from_numpy(pixels).permute(2, 0, 1) / 255,
        ]
        expected = next(predictor.predict([image]))[1]
        together = predictor(forms)
        assert_equal(predictor(pixels), expected)
    for detections in together:
        assert_equal(detections, expected)
    assert len(expected)
    assert predictor([]) == []


def test_an_image_of_a_list_is_named(run: Path, image: Path) -> None:
    predictor = Predictor.from_run(run)
    with pytest.raises(ValueError, match=r"image 1 of the list is an array of the shape \[5, 5, 2\]"):
        predictor([image, np.zeros((5, 5, 2), np.uint8)])


def test_exif_is_followed_as_the_run_was_trained(run: Path, image: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(image) as picture:
        picture.crop((0, 0, 60, 40)).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        detections = Predictor.from_run(run)(picture)
    assert (detections.width, detections.height) == (40, 60)


def detect_in_threads(predictor: Predictor, images: Sequence[Path], threads: int) -> list[Detections]:
    """Each image once; the threads are made to take turns as often as can be."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(predictor.detect, images))
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_four_threads_get_the_scores_of_one(calibrated: Path, image: Path, count: int) -> None:
    predictor = Predictor.from_run(calibrated)
    files = sorted(image.parent.iterdir())
    alone = {file: predictor.detect(file) for file in files}
    as_trained = Predictor.from_run(calibrated, calibrated=False).detect(files[0])
    assert not torch.equal(alone[files[0]].scores, as_trained.scores), "the calibration changes scores"

    images = [files[i % len(files)] for i in range(count)]
    for file, detections in zip(images, detect_in_threads(predictor, images, 4), strict=True):
        assert_equal(detections, alone[file])


def test_a_calibrated_and_a_plain_predictor_in_two_threads_at_one_time(calibrated: Path, image: Path) -> None:
    predictors = [Predictor.from_run(calibrated), Predictor.from_run(calibrated, calibrated=False)]
    expected = [predictor.detect(image) for predictor in predictors]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda i: predictors[i % 2].detect(image), range(16)))
    for i, detections in enumerate(results):
        assert_equal(detections, expected[i % 2])


THREADS = """
import sys, warnings
from concurrent.futures import ThreadPoolExecutor
import torch
from tailseg.inference import Predictor

predictor, backends = Predictor.from_run(sys.argv[1]), (torch.backends.cudnn, torch.backends.cuda.matmul)
before = list(warnings.filters), [backend.allow_tf32 for backend in backends]
with ThreadPoolExecutor(4) as pool:
    list(pool.map(predictor.detect, [sys.argv[2]] * 24))
assert (list(warnings.filters), [backend.allow_tf32 for backend in backends]) == before
"""


def test_threads_leave_warnings_and_precision_as_they_were(run: Path, image: Path) -> None:
    """Both belong to the process: the last of the threads restores them.

    A process of its own, because beartype, which the tests run with, changes the filters in every thread.
    """
    subprocess.run([sys.executable, "-c", THREADS, str(run), str(image)], check=True)


def test_a_calibration_may_be_given(run: Path, calibrated: Path, image: Path) -> None:
    stored = Predictor.from_run(calibrated)
    given = Predictor(stored.file, calibration=Calibration(Setting("NorCal", 0.8)))
    assert given.calibration == stored.calibration
    assert_equal(given(image), stored(image))
    assert Predictor(stored.file).calibration.setting.method == "none"


def test_calibrated_from_python(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailseg.detection.recalibration.STRENGTHS", {"NorCal": (0.4, 0.8), "FRACAL": (1.0,)})
    own = shutil.copytree(run, tmp_path / "run")
    titles: list[str] = []
    result = calibrate(own, images=2, progress=lambda title, done, total: titles.append(f"{title}: {done} of {total}"))
    assert [str(calibration.setting) for calibration, _ in result.tried] == [
        "as trained",
        "NorCal 0.4",
        "NorCal 0.8",
        "FRACAL 1",
    ]
    assert result.calibration in [calibration for calibration, _ in result.tried]
    assert result.tested[-1][0] == result.calibration
    assert result.iou_type == "segm"
    assert Predictor.from_run(own).calibration == result.calibration
    assert titles[0].startswith("16 training images for LogN: ")
    assert any(title.startswith("2 images, 4 calibrations: ") for title in titles)
    (own / "calibration.json").unlink()
    calibrate(own, images=1, store=False)
    assert not (own / "calibration.json").exists()


def test_the_page_on_python_runs(run: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of predict-from-python.md, in one program."""
    monkeypatch.setattr("tailseg.detection.recalibration.STRENGTHS", {"NorCal": (0.4,)})
    page = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "predict-from-python.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    shutil.copytree(run, tmp_path / "runs" / "custom_small")
    shutil.copy(image, tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    program = {}
    exec("\n".join(blocks), program)
    assert len(program["records"]) == len(program["good"])
    assert (tmp_path / "drawn.png").is_file()
