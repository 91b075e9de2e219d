"""A trained model on images, used from Python."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tailseg.annotations.image_files import ImageError
from tailseg.data.tiny_tail import generate
from tailseg.inference import Predictor
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


def test_the_saved_recipe_is_not_needed(run: Path, recipe: Recipe) -> None:
    (run / "recipe.json").unlink()
    try:
        assert Predictor.from_run(run).recipe == recipe
    finally:
        save_recipe(recipe, run / "recipe.json")
