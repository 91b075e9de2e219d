"""Detection in many images: reading, the network and the work on the results overlap.

Threads read and decode the next images. One thread runs the detector. The caller, who gets the results in the order of
the images, writes them in the meantime. The memory does not grow with the number of images.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from jaxtyping import UInt8
from torch import Tensor

from tailseg.annotations.types import Orientation
from tailseg.inference.sources import SourceImage
from tailseg.structures import Detections

Detector = Callable[[Sequence[Tensor]], list[Detections]]
"""From images, uint8 RGB ``[3, h, w]`` each of its own size, to the detections of each: `Predictor.detect_batch`, an
exported file, or another detector around one of these."""

NUM_READERS: Final = 2
"""Threads that read and decode images."""
BATCHES_AHEAD: Final = 2
"""Batches that wait for the detector, or for the caller."""


@dataclass(frozen=True)
class Outcome:
    """The result of one image.

    Attributes:
        image_id: its number in the order of all images, from 1.
        source: where it came from.
        image: uint8 RGB ``[3, h, w]``; None if it could not be read.
        detections: all detections; None if there was an error.
        error: why the image could not be read, or why the detector failed.
    """

    image_id: int
    source: SourceImage
    image: UInt8[Tensor, "3 h w"] | None
    detections: Detections | None
    error: Exception | None = None


def detect_all(
    images: Iterable[tuple[int, SourceImage]],
    detector: Detector,
    *,
    orientation: Orientation = "shown",
    batch_size: int = 1,
    readers: int = NUM_READERS,
) -> Generator[Outcome, None, None]:
    """Detects objects in many images.

    An image that cannot be read, or at which the detector fails, has an outcome with the error. If the detector fails
    at a batch, each of its images is tried alone. Close the generator to end before the last image.

    Args:
        images: the number and the source of each image.
        detector: the detector; it runs in a thread of its own, one batch at a time.
        orientation: whether images are turned as their EXIF data says.
        batch_size: images that the detector gets at a time.
        readers: threads that read images.

    Yields:
        The outcome of each image, in the order of ``images``.

    Raises:
        Exception: an error of ``images`` itself.
    """
    listing = ThreadPoolExecutor(1, "list")
    reading = ThreadPoolExecutor(readers, "read")
    network = ThreadPoolExecutor(1, "detect")
    pools = (listing, reading, network)
    try:
        numbered = _compute_ahead(listing, iter(images), readers)
        loaded = _read_ahead(reading, numbered, orientation, batch_size + readers)
        running: deque[Future[list[Outcome]]] = deque()
        for batch in _group(loaded, batch_size):
            running.append(network.submit(_detect, detector, batch))
            if len(running) > BATCHES_AHEAD:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


_END: Final = object()


def _compute_ahead(pool: ThreadPoolExecutor, items: Iterator[Any], ahead: int) -> Iterator[Any]:
    """Computes the next items of an iterator in the one thread of a pool."""
    waiting = deque(pool.submit(next, items, _END) for _ in range(ahead))
    while (item := waiting.popleft().result()) is not _END:
        waiting.append(pool.submit(next, items, _END))
        yield item


def _read_ahead(
    pool: ThreadPoolExecutor, images: Iterator[tuple[int, SourceImage]], orientation: Orientation, ahead: int
) -> Iterator[Outcome]:
    """Reads the next images in the threads of a pool; an outcome has the image or the error."""
    waiting: deque[Future[Outcome]] = deque()
    for image_id, source in images:
        waiting.append(pool.submit(_read, image_id, source, orientation))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _read(image_id: int, source: SourceImage, orientation: Orientation) -> Outcome:
    try:
        return Outcome(image_id, source, source.read(orientation), None)
    except Exception as error:  # noqa: BLE001 - the other images are still processed
        return Outcome(image_id, source, None, None, error)


def _group(items: Iterator[Outcome], size: int) -> Iterator[list[Outcome]]:
    """Groups outcomes; each group has ``size`` images that were read, the last one may have fewer."""
    group: list[Outcome] = []
    for item in items:
        group.append(item)
        if sum(outcome.image is not None for outcome in group) == size or len(group) >= 2 * size:
            yield group
            group = []
    if group:
        yield group


def _detect(detector: Detector, batch: Sequence[Outcome]) -> list[Outcome]:
    """Runs the detector on the images of a batch that could be read."""
    images = [outcome.image for outcome in batch if outcome.image is not None]
    found: Iterator[Detections | Exception] = iter(_try(detector, images))
    return [outcome if outcome.image is None else _join(outcome, next(found)) for outcome in batch]


def _try(detector: Detector, images: Sequence[Tensor]) -> Sequence[Detections | Exception]:
    """Returns the detections of each image; its error, where the detector fails at the image alone."""
    if not images:
        return []
    try:
        return detector(images)
    except Exception as error:  # noqa: BLE001 - the other images are still processed
        return [error] if len(images) == 1 else [result for image in images for result in _try(detector, [image])]


def _join(outcome: Outcome, result: Detections | Exception) -> Outcome:
    if isinstance(result, Exception):
        return Outcome(outcome.image_id, outcome.source, outcome.image, None, result)
    return Outcome(outcome.image_id, outcome.source, outcome.image, result)
