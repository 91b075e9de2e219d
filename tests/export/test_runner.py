"""The parts of the runner of exported files compute what tailseg computes."""

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.tv_tensors import Image as TensorImage

from tailseg.data.images import load_image
from tailseg.data.transforms import evaluation_transform
from tailseg.export import runner
from tailseg.ops.masks import decode_mask, paste_masks

RNG = np.random.default_rng(0)


def test_masks_are_pasted_as_in_tailseg() -> None:
    corner = RNG.uniform(-20, 70, (40, 2))
    boxes = np.concatenate([corner, corner + RNG.uniform(0, 60, (40, 2))], 1).astype(np.float32)
    boxes[0], boxes[1] = (5, 5, 5, 9), (200, 200, 220, 230)  # without area, outside
    masks = RNG.random((40, 28, 28), np.float32)
    found = runner.paste(masks, boxes, (60, 80), 0.5)
    expected = paste_masks(torch.from_numpy(masks), torch.from_numpy(boxes), 60, 80)
    different = sum(int((decode_mask(a) != decode_mask(b)).sum()) for a, b in zip(found, expected, strict=True))
    assert different <= 2, "rounding may decide about a pixel at the threshold, not more"
    assert found[0] == expected[0]
    assert found[1] == expected[1]


@pytest.mark.parametrize("size", [(480, 640), (1200, 300), (97, 131), (64, 2000)], ids=str)
@pytest.mark.parametrize("sides", [(800, 1333), (96, 128)], ids=str)
def test_images_are_resized_as_in_tailseg(size: tuple[int, int], sides: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    found = runner.resize(image, *sides)
    expected = evaluation_transform(*sides)(TensorImage(torch.from_numpy(image).permute(2, 0, 1)))
    difference = np.abs(found.astype(int) - expected.permute(1, 2, 0).numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.1


@pytest.mark.parametrize("orientation", ["shown", "stored"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "gray.png", "deep.png", "palette.gif", "clear.png", "a.tif"])
def test_images_are_read_as_in_tailseg(name: str, orientation: str, tmp_path: Path) -> None:
    pixels = np.kron(RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    picture = Image.fromarray(pixels)
    if name == "gray.png":
        picture = picture.convert("L")
    elif name == "deep.png":
        picture = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    elif name == "palette.gif":
        picture = picture.quantize(16)
    elif name == "clear.png":
        picture.putalpha(100)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / name, **({} if name.endswith(("gif", "tif")) else {"exif": exif}))
    found = runner.read_image(tmp_path / name, orientation)
    expected = load_image(tmp_path / name, orientation)
    np.testing.assert_array_equal(found, expected.permute(1, 2, 0).numpy())


def test_pixels_of_an_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float.tif has pixels of the mode F"):
        runner.read_image(tmp_path / "float.tif")


def test_a_batch_of_images_is_padded() -> None:
    images = [np.full((40, 70, 3), 9, np.uint8), np.full((33, 20, 3), 7, np.uint8)]
    inputs = runner.make_inputs(images, [np.zeros((80, 140, 3)), np.zeros((33, 20, 3))])
    assert inputs["images"].shape == (2, 64, 96, 3)
    assert inputs["images"].sum() == 9 * 40 * 70 * 3 + 7 * 33 * 20 * 3
    assert inputs["sizes"].tolist() == [[40, 70], [33, 20]]
    assert inputs["original_sizes"].tolist() == [[80, 140], [33, 20]]


class Picky:
    """A model that fails at wide images."""

    settings: ClassVar = {"orientation": "shown"}

    def detect(self, image: np.ndarray, **_: object) -> list[dict[str, int]]:
        if image.shape[1] > 50:
            raise RuntimeError("out of memory")
        return [{"category_id": 7}]


def test_an_image_at_which_the_model_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, width in (("a.png", 20), ("b.png", 80), ("c.png", 30)):
        Image.fromarray(np.zeros((10, width, 3), np.uint8)).save(tmp_path / name)
    monkeypatch.setattr(runner, "open_model", lambda *_: Picky())
    assert runner.main(["model.onnx", str(tmp_path), "--out", str(tmp_path / "found.json")]) == 1
    assert "b.png: out of memory" in capsys.readouterr().err
    assert [record["image_id"] for record in json.loads((tmp_path / "found.json").read_text())] == [1, 3]
