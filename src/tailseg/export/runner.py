"""Detects objects in images with a model that `tailseg export` wrote. This file needs neither torch nor tailseg.

    pip install numpy pillow pycocotools onnxruntime        for model.xml: openvino in place of onnxruntime
                                                            for model.pt2: torch and torchvision
    python detect.py model.onnx photos
    python detect.py model.onnx photos --annotations val.json --all

It writes results.json: COCO-style detections with image_id, category_id, bbox (x, y, width, height), score, and
segmentation (run lengths) if the model has masks. In Python:

    model = Model("model.onnx")
    for detection in model.detect(read_image("photo.jpg", model.settings["orientation"])):
        print(detection["category"], detection["score"])
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from pycocotools import mask as coco

FORMATS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")
OUTPUTS = ("boxes", "scores", "labels", "counts", "above", "masks")
PARTS = ("images", "sizes", "original_sizes")


class Model:
    """An exported detector.

    Attributes:
        settings: what the file says about itself: classes, preprocessing, thresholds, versions.
    """

    def __init__(self, file: str | Path, *, threads: int = 0) -> None:
        """Loads the file.

        Args:
            file: an ONNX file, which onnxruntime runs, an XML file (OpenVINO), or a PT2 file (torch).
            threads: of the computation; 0 lets the runtime choose.

        Raises:
            ValueError: `tailseg export` did not write the file.
        """
        readers = {".xml": _open_openvino, ".pt2": _open_torch}
        content, self._run = readers.get(Path(file).suffix, _open_onnx)(Path(file), threads)
        if content is None:
            raise ValueError(f"{file} was not written by `tailseg export`: it has no metadata of tailseg")
        self.settings: dict[str, Any] = json.loads(content)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the model on ``images``, ``sizes`` and ``original_sizes``, and returns its outputs by name."""
        return self._run(dict(inputs))

    def detect_batch(self, images: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Detects objects in several images at a time.

        Args:
            images: uint8 ``[height, width, 3]``, RGB, each of its own size.

        Returns:
            For each image ``boxes`` ``[D, 4]`` (xyxy in its pixels), ``scores`` ``[D]``, ``labels`` ``[D]`` (0 .. C-1),
            ``above`` ``[D]`` (whether the score is at least the threshold of the class), and ``masks`` if the model
            has masks: ``[D, 28, 28]`` (probabilities inside the box), or bool ``[D, height, width]`` if the file was
            exported with masks of the image; best first.
        """
        short, long = self.settings["short_side"], self.settings["max_long_side"]
        outputs = self.run(make_inputs([resize(image, short, long) for image in images], images))
        found = [
            {name: outputs[name][row, :count] for name in OUTPUTS if name in outputs and name != "counts"}
            for row, count in enumerate(outputs["counts"].tolist())
        ]
        if self.settings["masks"] == "image":
            for values, image in zip(found, images, strict=True):
                values["masks"] = values["masks"][:, : image.shape[0], : image.shape[1]]
        return found

    def detect(self, image: np.ndarray, *, above: bool = True, score_threshold: float = 0.0) -> list[dict[str, Any]]:
        """Detects objects in one image.

        Args:
            image: uint8 ``[height, width, 3]``, RGB.
            above: only detections that score at least the stored threshold of their class.
            score_threshold: the least score.

        Returns:
            A record for each detection, best first, ready for JSON.
        """
        (found,) = self.detect_batch([image])
        chosen = (found["scores"] >= score_threshold) & (found["above"] if above else True)
        found = {name: values[chosen] for name, values in found.items()}
        boxes = found["boxes"].astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        categories = [self.settings["classes"][label] for label in found["labels"].tolist()]
        records: list[dict[str, Any]] = [
            {"category_id": category["id"], "category": category["name"], "bbox": box, "score": score}
            for category, box, score in zip(categories, boxes.tolist(), found["scores"].tolist(), strict=True)
        ]
        if "masks" in found:
            if self.settings["masks"] == "image":
                masks = [encode(np.asfortranarray(mask, np.uint8)) for mask in found["masks"]]
            else:
                masks = paste(found["masks"], found["boxes"], image.shape[:2], self.settings["mask_threshold"])
            for record, mask in zip(records, masks, strict=True):
                record["segmentation"] = mask
        return records


Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def _open_onnx(file: Path, threads: int) -> tuple[str | None, Run]:
    """The metadata of an ONNX file, and the function that runs it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    content = session.get_modelmeta().custom_metadata_map.get("tailseg")
    return content, lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _open_openvino(file: Path, threads: int) -> tuple[str | None, Run]:
    """The metadata of a file of OpenVINO, and the function that runs it."""
    import openvino

    core = openvino.Core()
    model = core.read_model(file)
    content = model.get_rt_info("tailseg").astype(str) if model.has_rt_info("tailseg") else None
    # without the hint, newer processors compute boxes in bfloat16, too; layers that are bfloat16 in the file stay so
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", options)
    names = [output.get_any_name() for output in compiled.outputs]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = compiled(inputs)
        return {name: found[place] for place, name in enumerate(names)}

    return content, run


def _open_torch(file: Path, threads: int) -> tuple[str | None, Run]:
    """The metadata of a file of torch, and the function that runs it."""
    import torch

    define_suppression()
    if threads:
        torch.set_num_threads(threads)
    extra = {"tailseg.json": ""}
    with file.open("rb") as opened:
        module = torch.export.load(opened, extra_files=extra).module()

    @torch.no_grad()
    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        values = module(*(torch.from_numpy(inputs[name]) for name in PARTS))
        return {name: value.numpy() for name, value in zip(OUTPUTS, values, strict=False)}

    return extra["tailseg.json"] or None, run


def define_suppression() -> None:
    """Defines `tailseg::suppress` for torch: non-maximum suppression within each class of each group of boxes.

    `torch.export.load` needs it, and torchvision's operations.
    """
    import torch
    from torchvision.ops import nms

    if hasattr(torch.ops.tailseg, "suppress"):
        return

    def suppress(boxes, scores, iou_threshold, score_threshold, limit):  # noqa: ANN001, ANN202 - types of torch
        survivors = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        candidates = scores > score_threshold
        for group, label in candidates.any(2).nonzero().tolist():
            rows = candidates[group, label].nonzero()[:, 0]
            rows = rows[scores[group, label, rows].argsort(descending=True, stable=True)]
            rank = torch.arange(len(rows), 0, -1, device=rows.device, dtype=torch.float64)
            survivors[group, label, rows[nms(boxes[group, rows].double(), rank, iou_threshold)[:limit]]] = True
        return survivors

    schema = "(Tensor boxes, Tensor scores, float iou_threshold, float score_threshold, SymInt limit) -> Tensor"
    torch.library.define("tailseg::suppress", schema)
    torch.library.impl("tailseg::suppress", "default", suppress)
    torch.library.register_fake(
        "tailseg::suppress", lambda _boxes, scores, *_: scores.new_empty(scores.shape, dtype=torch.bool)
    )


def make_inputs(resized: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Makes the inputs of the model: images padded on the right and below to one size, a multiple of 32.

    Args:
        resized: the images that the model sees.
        images: the images before `resize`.

    Returns:
        ``images`` uint8 ``[B, H, W, 3]``; ``sizes`` and ``original_sizes`` int64 ``[B, 2]``, height and width.
    """
    sizes = np.array([image.shape[:2] for image in resized], np.int64)
    height, width = (-(-sizes.max(0) // 32) * 32).tolist()
    batch = np.zeros((len(resized), height, width, 3), np.uint8)
    for row, image in zip(batch, resized, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return {"images": batch, "sizes": sizes, "original_sizes": np.array([x.shape[:2] for x in images], np.int64)}


def resize(image: np.ndarray, short_side: int, max_long_side: int) -> np.ndarray:
    """Resizes so that the short side is ``short_side``, but the long side at most ``max_long_side``.

    Args:
        image: uint8 ``[height, width, 3]``.
        short_side: in pixels.
        max_long_side: in pixels.

    Returns:
        The resized image.
    """
    height, width = image.shape[:2]
    scale = min(short_side / min(height, width), max_long_side / max(height, width))
    size = [max(1, int(side * scale + 0.5)) for side in (width, height)]
    return np.asarray(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BILINEAR))


def read_image(file: str | Path, orientation: str = "shown") -> np.ndarray:
    """Reads an image file as uint8 ``[height, width, 3]``, RGB.

    Args:
        file: an image that Pillow reads. Of 16 bits, the upper 8 are used. Transparency is ignored.
        orientation: "shown" turns the image as its EXIF data says, "stored" does not.

    Returns:
        The pixels.

    Raises:
        OSError: the file is not there, or cannot be read.
        ValueError: the range of its numbers is unknown.
    """
    with Image.open(file) as opened:
        opened.load()
        picture: Image.Image = ImageOps.exif_transpose(opened) if orientation == "shown" else opened
    picture.info.pop("transparency", None)
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.array(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError(f"{file} has pixels of the mode {picture.mode}, of an unknown range: write 8 or 16 bits")
    if picture.mode in ("RGBa", "La"):
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"))


def paste(masks: np.ndarray, boxes: np.ndarray, size: Sequence[int], threshold: float) -> list[Any]:
    """Stretches each mask over its box.

    A pixel belongs to the mask when the probability at its center, bilinear between the centers of the mask's cells and
    falling to 0 outside them, is at least ``threshold``.

    Args:
        masks: probabilities ``[D, S, S]``.
        boxes: ``[D, 4]``, xyxy in pixels of the image.
        size: height and width of the image.
        threshold: least probability.

    Returns:
        COCO run lengths of the whole image for each mask, ready for JSON.
    """
    height, width = size
    encoded = []
    for cells, box in zip(masks, boxes.astype(np.float64), strict=True):
        bitmap = np.zeros((height, width), np.uint8, order="F")
        x1, y1 = np.clip(np.floor(box[:2]) - 1, 0, (width, height)).astype(int)
        x2, y2 = np.clip(np.ceil(box[2:]) + 1, 0, (width, height)).astype(int)
        if (box[2:] > box[:2]).all() and x2 > x1 and y2 > y1:
            rows = compute_weights(np.arange(y1, y2), box[1], box[3], len(cells))
            columns = compute_weights(np.arange(x1, x2), box[0], box[2], len(cells))
            bitmap[y1:y2, x1:x2] = rows @ cells.astype(np.float32) @ columns.T >= threshold
        encoded.append(encode(bitmap))
    return encoded


def encode(bitmap: np.ndarray) -> dict[str, Any]:
    """The COCO run lengths of a bitmap, uint8 ``[height, width]`` in the order of columns; ready for JSON."""
    return {"size": list(bitmap.shape), "counts": coco.encode(bitmap)["counts"].decode("ascii")}


def compute_weights(pixels: np.ndarray, low: float, high: float, cells: int) -> np.ndarray:
    """Computes the bilinear weight of each cell of a mask at the center of each pixel, along one axis.

    Args:
        pixels: numbers of pixels.
        low: where the mask begins.
        high: where it ends.
        cells: of the mask.

    Returns:
        ``[pixels, cells]``.
    """
    position = (pixels + 0.5 - low) * (cells / (high - low)) - 0.5
    return np.clip(1 - np.abs(position[:, None] - np.arange(cells)), 0, 1).astype(np.float32)


def find_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The image files among the paths and in the folders among them."""
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.suffix.lower() in FORMATS)
        else:
            yield path


def list_images(paths: Sequence[Path], annotations: Path | None) -> Iterator[tuple[int, str, Path]]:
    """The id, the name and the file of each image: those of an annotation file, or all files, counted from 1."""
    if annotations is None:
        yield from ((number, file.as_posix(), file) for number, file in enumerate(find_files(paths), 1))
        return
    for image in json.loads(annotations.read_text())["images"]:
        # LVIS names its images by their address
        name = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
        yield image["id"], name, next((path / name for path in paths if (path / name).is_file()), paths[0] / name)


def open_model(file: Path, threads: int) -> Model:
    """Opens the exported file.

    Raises:
        ValueError: there is no such file, or the runtime cannot read it.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    try:
        return Model(file, threads=threads)
    except (KeyError, ValueError):
        raise
    except Exception as error:  # runtimes have exceptions of their own, without a common class
        raise ValueError(f"{file} is not a file that tailseg export wrote: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Reads the options, detects, and writes results.json; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, help="the file that `tailseg export` wrote")
    parser.add_argument("images", type=Path, nargs="+", help="image files, or folders of images")
    parser.add_argument("--annotations", type=Path, help="COCO file: its images and their ids, in the folders given")
    parser.add_argument("--out", type=Path, default=Path("results.json"), help="the file to write")
    parser.add_argument("--score-threshold", type=float, default=0.0, help="the least score")
    parser.add_argument("--all", action="store_true", help="ignore the stored thresholds of the classes")
    parser.add_argument("--threads", type=int, default=0, help="threads of the runtime; 0 lets it choose")
    options = parser.parse_args(arguments)
    try:
        model = open_model(options.model, options.threads)
        images = list_images(options.images, options.annotations)
        first = next(images, None)
    except (OSError, ValueError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if first is None:
        print(f"error: there is no image in {', '.join(map(str, options.images))}", file=sys.stderr)
        return 1
    results: list[dict[str, Any]] = []
    count = failed = 0
    for image_id, name, file in chain([first], images):
        try:
            image = read_image(file, model.settings["orientation"])
            records = model.detect(image, above=not options.all, score_threshold=options.score_threshold)
        except Exception as error:  # noqa: BLE001 - malformed files and runtimes raise exceptions of many types
            print(f"error: image {file}: {error or type(error).__name__}", file=sys.stderr)
            failed += 1
            continue
        results += [{"image_id": image_id, "file_name": name, **record} for record in records]
        count += 1
    if not count:
        print(f"error: no image could be read; {options.out} is not written", file=sys.stderr)
        return 1
    options.out.write_text(json.dumps(results))
    print(f"{len(results)} detections in {count} images, written to {options.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
