"""Detection in many images on a Ray cluster (extra `ray`)."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tailseg.inference.pipeline import detect_all
from tailseg.inference.sources import BrokenImage, FileImage, MemberImage, SourceImage
from tailseg.lazy import needs_extra

IMAGES_PER_TASK: Final = 16
"""Images that an actor detects in at a time; after the loss of a node they are detected again."""


def detect_on_ray(
    images: Sequence[tuple[int, SourceImage]],
    make_worker: Callable[[], Any],
    *,
    address: str,
    batch_size: int = 1,
    num_gpus: float = 0,
) -> Iterator[dict[str, Any]]:
    """Detects on a Ray cluster and returns the lines in the order of the images, each once.

    Ray Data maps the images over actors that it starts on all nodes. Ray runs the tasks of a node again on another one
    if the node is lost; a result that came twice or in another order is an error.

    Args:
        images: number and source of each image. All nodes must find the files under the same paths.
        make_worker: called once in each actor; its result has ``detector``, ``orientation`` and ``make_line``, which
            makes the line of an outcome.
        address: of the cluster, such as ``ray://head:10001`` or ``auto``; ``local`` starts one on this machine.
        batch_size: images that the detector gets at a time.
        num_gpus: for each actor.

    Yields:
        The line of each image.

    Raises:
        ValueError: there are frames of videos or images in compressed tar files, which are read in one place only.
        RuntimeError: an image is missing, comes twice, or in another order.
    """
    rows = [_to_row(image_id, source) for image_id, source in images]
    with needs_extra("ray"):
        import ray
        import ray.data

    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)

    class Worker:
        def __init__(self) -> None:
            self.worker = make_worker()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            numbered = [_from_row(row) for row in batch["row"].tolist()]
            outcomes = detect_all(
                numbered, self.worker.detector, orientation=self.worker.orientation, batch_size=batch_size
            )
            lines = [self.worker.make_line(outcome) for outcome in outcomes]
            return {"image_id": [line["image_id"] for line in lines], "line": [json.dumps(line) for line in lines]}

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    actors = max(1, int(ray.cluster_resources().get("GPU", 0) / num_gpus if num_gpus else count_nodes(ray)))
    data = ray.data.from_items(
        [{"row": row} for row in rows], override_num_blocks=max(1, -(-len(images) // IMAGES_PER_TASK))
    )
    lines = data.map_batches(
        Worker, batch_size=IMAGES_PER_TASK, concurrency=(1, actors), num_gpus=num_gpus or None, num_cpus=1
    )
    expected = (image_id for image_id, _ in images)
    for row in lines.iter_rows():
        if row["image_id"] != (image_id := next(expected, None)):
            raise RuntimeError(f"Ray returned image {row['image_id']} where image {image_id} was expected")
        yield json.loads(row["line"])
    if (missing := next(expected, None)) is not None:
        raise RuntimeError(f"Ray did not return image {missing}")


def count_nodes(ray: Any) -> int:  # noqa: ANN401 - the module
    """Counts the nodes of the cluster that are alive."""
    return sum(node["Alive"] for node in ray.nodes())


def _to_row(image_id: int, source: SourceImage) -> str:
    """The place of an image as text: no code of another machine is run, as from a pickle."""
    if isinstance(source, FileImage):
        place: list[str | int] = [str(source.path)]
    elif isinstance(source, BrokenImage):
        place = [source.name, source.reason]
    elif isinstance(source, MemberImage) and source.content is None:
        place = [str(source.tar), source.member, source.offset, source.size]
    else:
        raise ValueError(
            f"{source.name} cannot be detected on Ray, because videos and compressed tar files are read from their "
            "start: write the frames as images, or unpack the tar file"
        )
    return json.dumps([image_id, *place])


def _from_row(row: str) -> tuple[int, SourceImage]:
    image_id, *place = json.loads(row)
    if len(place) == 1:
        return image_id, FileImage(Path(place[0]))
    if len(place) == 2:
        return image_id, BrokenImage(*place)
    return image_id, MemberImage(Path(place[0]), *place[1:])
