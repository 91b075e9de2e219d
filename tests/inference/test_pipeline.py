"""Detection in many images, with detectors that only look at the brightness."""

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tailseg.annotations.image_files import ImageError
from tailseg.inference.pipeline import BATCHES_AHEAD, NUM_READERS, Outcome, detect_all
from tailseg.inference.sources import FileImage
from tailseg.structures import Detections


class Shade(FileImage):
    """An image of one shade, which needs no file; "bad" cannot be read."""

    def read(self, orientation: str) -> Tensor:
        if "bad" in self.name:
            raise ImageError(f"{self.name} is bad")
        return torch.full((3, 4, 5), int(self.path.stem), dtype=torch.uint8)


def images(*names: str):
    return [(number, Shade(Path(name))) for number, name in enumerate(names, start=1)]


def detect(batch: Sequence[Tensor]) -> list[Detections]:
    """One box, whose score is the shade in percent."""
    return [
        Detections(torch.ones(1, 4), image[0, 0, :1] / 100, torch.zeros(1, dtype=torch.int64), None, 4, 5)
        for image in batch
    ]


def summarize(outcomes: Sequence[Outcome]) -> list:
    return [
        (outcome.image_id, round(100 * float(outcome.detections.scores[0])))
        if outcome.detections
        else (outcome.image_id, str(outcome.error))
        for outcome in outcomes
    ]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_every_image_once_and_in_order(batch_size: int) -> None:
    names = [str(number) if number % 7 else f"bad{number}" for number in range(1, 41)]
    outcomes = list(detect_all(images(*names), detect, batch_size=batch_size))
    expected = [(n, n) if n % 7 else (n, f"bad{n} is bad") for n in range(1, 41)]
    assert summarize(outcomes) == expected


def test_batches_are_full_whatever_cannot_be_read() -> None:
    sizes: list[int] = []

    def remember(batch: Sequence[Tensor]) -> list[Detections]:
        sizes.append(len(batch))
        return detect(batch)

    list(detect_all(images("1", "bad2", "3", "4", "5", "6", "7"), remember, batch_size=3))
    assert sizes == [3, 3]


def test_where_a_batch_fails_each_image_is_tried_alone() -> None:
    def fail(batch: Sequence[Tensor]) -> list[Detections]:
        if any(int(image[0, 0, 0]) == 2 for image in batch):
            raise RuntimeError("out of memory")
        return detect(batch)

    outcomes = list(detect_all(images("1", "2", "3", "4"), fail, batch_size=4))
    assert summarize(outcomes) == [(1, 1), (2, "out of memory"), (3, 3), (4, 4)]


def test_few_images_are_read_ahead_and_none_after_the_end() -> None:
    read = []

    def listed():
        for number in range(1, 1000):
            read.append(number)
            yield number, Shade(Path("7"))

    outcomes = detect_all(listed(), detect, batch_size=2)
    for _ in range(10):
        next(outcomes)
    outcomes.close()
    assert len(read) <= 10 + 2 * (BATCHES_AHEAD + 2) + 3 * NUM_READERS
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("list", "read", "detect_"))]


def test_an_error_of_the_listing_ends_it() -> None:
    def listed():
        yield 1, Shade(Path("1"))
        raise ValueError("the images have changed")

    outcomes = detect_all(listed(), detect)
    with pytest.raises(ValueError, match="the images have changed"):
        list(outcomes)


def test_reading_and_writing_go_on_while_the_detector_works() -> None:
    """The detector waits for the writer of an earlier image, and for the reader of a later one."""
    written, read = threading.Event(), threading.Event()

    class Slow(Shade):
        def read(self, orientation: str) -> Tensor:
            if self.path.stem == "4":
                read.set()
            return super().read(orientation)

    def wait(batch: Sequence[Tensor]) -> list[Detections]:
        if int(batch[0][0, 0, 0]) == 3:
            assert read.wait(30)
            assert written.wait(30)
        return detect(batch)

    numbered = [(number, Slow(Path(str(number)))) for number in range(1, 9)]
    outcomes = detect_all(numbered, wait)
    assert summarize([next(outcomes)]) == [(1, 1)]
    written.set()
    assert summarize(list(outcomes)) == [(number, number) for number in range(2, 9)]
