"""Real photographs: what a model has seen often enough, it must find, outline and name."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tailseg.drawing import draw
from tailseg.inference import Predictor
from tailseg.recipes import Recipe
from tailseg.recipes.custom import custom_small
from tailseg.training.loop import train


def few_large_objects(file: Path, count: int) -> dict[str, object]:
    """The first photographs with two to four objects, each of which covers a hundredth of the picture or more."""
    content = json.loads(file.read_text())
    chosen = []
    for image in content["images"]:
        objects = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        least = image["width"] * image["height"] / 100
        if 2 <= len(objects) <= 4 and all(each["area"] >= least and not each["iscrowd"] for each in objects):
            chosen.append(image)
    ids = {image["id"] for image in chosen[:count]}
    return {
        **content,
        "images": [image for image in content["images"] if image["id"] in ids],
        "annotations": [each for each in content["annotations"] if each["image_id"] in ids],
    }


def overfitting(file: Path, images: Path, out: Path) -> Recipe:
    """custom_small without augmentation, tested on what it was trained on."""
    recipe = custom_small()
    folder = str(images)
    return replace(
        recipe,
        data=replace(
            recipe.data,
            train=str(file),
            val=str(file),
            train_images=folder,
            val_images=folder,
            short_sides=(224,),
            test_short_side=224,
            flip=0.0,
            batch_size=4,
            workers=0,
            repeat_threshold=0.0,
        ),
        optim=replace(recipe.optim, lr=0.08, epochs=250, milestones=(180, 225)),
        run=replace(recipe.run, out=str(out), eval_every=0, checkpoint_every=50),
    )


@pytest.mark.slow
def test_eight_photographs_are_learned_by_heart(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "coco_tail"
    file = tmp_path / "eight.json"
    content = few_large_objects(source / "train.json", 8)
    file.write_text(json.dumps(content))
    assert len(json.loads(file.read_text())["images"]) == 8
    metrics = train(overfitting(file, source / "images", tmp_path / "run"))
    assert metrics.scores["segm"]["AP50"] >= 0.80
    assert metrics.scores["bbox"]["AP50"] >= 0.80

    predictor = Predictor.from_run(tmp_path / "run")
    paths = [source / "images" / image["file_name"] for image in json.loads(file.read_text())["images"]]
    for info, found in predictor.predict(paths):
        photograph = Image.open(info.file).convert("RGB")
        drawn = draw(photograph, found.above(0.5), predictor.names, predictor.frequency.groups)
        drawn.save(tmp_path / Path(info.file).name)
        assert (np.asarray(drawn) != np.asarray(photograph)).any(), "nothing was found to draw"
