"""Pictures that EXIF wants turned, through training, evaluation, `test` and the report's reader."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tailseg.cli import main
from tailseg.data.images import describe_orientations, read_image
from tailseg.data.loader import DetectionDataset
from tailseg.data.transforms import evaluation_transform
from tailseg.inference import Predictor
from tailseg.recipes.build import build_data
from tailseg.training.loop import train

from . import small

BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How the stored pixels come from the shown ones, by EXIF's orientation."""


def rewritten(data: Path, folder: Path, *, is_turned: bool) -> Path:
    """A copy of the data with every picture as PNG; turned or mirrored, each in another way, which EXIF says."""
    shutil.copytree(data, folder)
    for number, file in enumerate(sorted(folder.glob("*/*.jpg"))):
        orientation = 2 + number % 7
        exif = Image.Exif()
        exif[0x0112] = orientation
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        if is_turned:
            picture.transpose(BACK[orientation]).save(file, "PNG", exif=exif)
        else:
            picture.save(file, "PNG")
    return folder


def losses(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "loss" in key} for line in lines if line["kind"] == "train"]


@pytest.mark.slow
def test_a_run_on_turned_files_is_the_run_on_upright_ones(data, tmp_path, capsys):
    """Losses and detections, to the bit: loader, evaluation and `test` read a picture in one way."""
    upright = small.recipe(rewritten(data, tmp_path / "a", is_turned=False), tmp_path / "upright")
    upright = replace(upright, optim=replace(upright.optim, epochs=1))
    train(upright)
    turned = small.recipe(rewritten(data, tmp_path / "b", is_turned=True), tmp_path / "turned")
    turned = replace(turned, optim=upright.optim)
    capsys.readouterr()

    train(turned)

    said = capsys.readouterr().err
    assert said.count("images have an EXIF orientation other than 1") == 1
    assert "read as viewers and annotation tools show them" in said
    assert losses(tmp_path / "upright") == losses(tmp_path / "turned")
    before = (tmp_path / "upright" / "results.json").read_text()
    assert (tmp_path / "turned" / "results.json").read_text() == before
    assert main(["test", str(tmp_path / "turned")]) == 0
    assert (tmp_path / "turned" / "results.json").read_text() == before
    assert "images have an EXIF orientation other than 1" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("orientation", ["shown", "stored"])
def test_the_setting_reaches_every_reader(data, tmp_path, orientation):
    copy = shutil.copytree(data, tmp_path / "copy")
    first = min((copy / "train").glob("*.jpg"))
    exif = Image.Exif()
    exif[0x0112] = 3
    with Image.open(first) as picture:
        picture.convert("RGB").save(first, "PNG", exif=exif)
    recipe = small.recipe(copy, tmp_path / "run")
    recipe = replace(recipe, data=replace(recipe.data, orientation=orientation))
    annotations, _ = build_data(recipe)
    names = [annotations.names.text(row).partition("\n")[0] for row in range(annotations.num_images)]
    row = next(row for row, name in enumerate(names) if name.endswith(first.name))
    image = read_image(annotations.get_info(row))
    predictor = Predictor.__new__(Predictor)
    predictor.recipe = recipe
    with Image.open(first) as picture:
        stored = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
    stored = stored.reshape(*image.shape[1:], 3).permute(2, 0, 1)

    assert torch.equal(image, stored.flip((1, 2)) if orientation == "shown" else stored)
    assert torch.equal(predictor.read(first), image)
    _, _, info = DetectionDataset(annotations, evaluation_transform(64, 128))[row, 0]
    assert info.exif == 3
    said = {"shown": "read as viewers and annotation tools show them", "stored": "read as stored, for data.orientation"}
    assert f"1 image has an EXIF orientation other than 1 ({info.file}: 3): " in describe_orientations([info])
    assert said[orientation] in describe_orientations([info])
    assert describe_orientations([]) == ""
