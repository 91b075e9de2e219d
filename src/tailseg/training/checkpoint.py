"""Checkpoints hold all that a run needs to continue exactly, and all that a model needs without its data set.

A file holds only tensors and plain types and loads with ``weights_only=True``: reading a checkpoint never runs code
from it. Weights without a run (converted weights) are a safetensors file; its header holds the recipe and the classes.

A file is written completely or not at all (`tailseg.files`). Checksums (CRC-32 of every tensor and of the rest) detect
later changes on the disk.
"""

import dataclasses
import json
import pickletools
import re
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from tailseg.annotations.dataset import Category
from tailseg.files import write_atomically
from tailseg.recipes.old_names import with_new_names
from tailseg.recipes.saved import Plain
from tailseg.structures import ClassFrequency, Group

FORMAT = "tailseg checkpoint 1"
WEIGHTS_FORMAT = "tailseg weights 1"
WEIGHTS_SUFFIX = ".safetensors"


class CheckpointError(ValueError):
    """A file is not a usable checkpoint, or belongs to another recipe; the message says what to do."""


MALFORMED: Final = (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError)
"""The errors of Python and torch for a value of a wrong type, nested too deeply or out of range."""


@dataclass
class Progress:
    """The progress of a run.

    Attributes:
        epoch: epochs done, with their evaluation.
        step_in_epoch: steps done in the current epoch. If all are done, only the evaluation is left.
        step: steps done since the start.
        best: the best figure (``run.best_by``) in evaluation so far.
        window: sums of the losses and figures since the last line of the log, by name; ``steps`` counts the steps.
        replaced: the reason for each image that could not be used and was replaced by another one.
        left_out: steps that float16's scaler left out because the gradient was not finite.
        left_out_in_a_row: steps left out since the last step that was made.
        first_losses: the losses of the first steps, which `tailseg.training.divergence` compares later ones with.
        high_losses: steps in a row, up to the last one, whose loss was high.
        diverged_losses: steps in a row, up to the last one, whose loss was so high that the run has diverged.
        gained_to: the figure at its last gain of more than ``run.min_gain``.
        evaluations_without_gain: evaluations since then.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    best: float | None = None
    window: dict[str, float] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    left_out: int = 0
    left_out_in_a_row: int = 0
    first_losses: list[float] = field(default_factory=list)
    high_losses: int = 0
    diverged_losses: int = 0
    gained_to: float | None = None
    evaluations_without_gain: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    It has no random states, because the loop seeds every step by its number.

    Attributes:
        recipe: the result of `tailseg.recipes.saved.to_plain`.
        categories: the classes of the data set, by label.
        frequency: the frequencies of the classes in the training set.
        model: the detector's state dict with the weights to use: the moving average if the run has one.
        optimizer: the optimizer's state dict.
        progress: the progress of the run.
        trained: the weights that the optimizer updates, if ``model`` has the moving average.
        scaler: the state of float16's gradient scaler, empty for other precisions.
        data: fingerprint of the training set, see `tailseg.annotations.fingerprint`; empty if it is not known.
    """

    recipe: Plain
    categories: tuple[Category, ...]
    frequency: ClassFrequency
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    progress: Progress
    trained: dict[str, Tensor] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    data: str = ""


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a checkpoint: the whole file or nothing."""
    content = {
        "format": FORMAT,
        "recipe": checkpoint.recipe,
        "categories": [dataclasses.asdict(category) for category in checkpoint.categories],
        "frequency": {
            "image_counts": checkpoint.frequency.image_counts,
            "instance_counts": checkpoint.frequency.instance_counts,
            "num_images": checkpoint.frequency.num_images,
            "groups": list(checkpoint.frequency.groups),
        },
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "progress": dataclasses.asdict(checkpoint.progress),
        "trained": checkpoint.trained,
        "scaler": checkpoint.scaler,
        "data": checkpoint.data,
    }
    with write_atomically(path) as file:
        torch.save(content, file)


def save_weights(checkpoint: Checkpoint, path: Path) -> None:
    """Writes the model, its recipe, its classes and their frequencies as safetensors: the whole file or nothing.

    The optimizer and the progress are left out: `load` reads the file as a run before its first step.

    Raises:
        ValueError: the path does not end in ``.safetensors``, which tells `load` the format.
    """
    if path.suffix != WEIGHTS_SUFFIX:
        raise ValueError(f"weights are written to a {WEIGHTS_SUFFIX} file, got {path}")
    frequency = checkpoint.frequency
    header = {
        "format": WEIGHTS_FORMAT,
        "recipe": json.dumps(checkpoint.recipe),
        "categories": json.dumps([dataclasses.asdict(category) for category in checkpoint.categories]),
        "frequency": json.dumps(
            {
                "image_counts": frequency.image_counts.tolist(),
                "instance_counts": frequency.instance_counts.tolist(),
                "num_images": frequency.num_images,
                "groups": list(frequency.groups),
            }
        ),
    }
    model = _with_separate_memory({name: tensor.detach().cpu() for name, tensor in checkpoint.model.items()})
    header["crc32"] = json.dumps({name: _checksum(tensor) for name, tensor in model.items()})
    with write_atomically(path) as file:
        file.write_bytes(to_bytes(model, header))


def _with_separate_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives each tensor its own memory, which safetensors requires. Heads that share a loss share its counts."""
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone(memory_format=torch.contiguous_format) if address in seen else tensor.contiguous()
        seen.add(address)
    return separate


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.contiguous().flatten().view(torch.uint8).numpy())


def load(path: Path, *, device: torch.device | str = "cpu") -> Checkpoint:
    """Reads a checkpoint, or weights that `save_weights` wrote.

    Raises:
        CheckpointError: the file does not exist, is damaged, or was not written by tailseg.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.suffix == WEIGHTS_SUFFIX:
        return _load_weights(path, device)
    try:
        check_archive(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # noqa: BLE001 (a malformed pickle can make torch's reader raise any)
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        damage = CheckpointError(
            f"{path} cannot be read as a checkpoint: truncated, damaged, or not written by tailseg ({reason})"
        )
        damage.add_note("An earlier checkpoint may be readable; `tailseg resume RUN` loads the newest readable one")
        raise damage from None
    if not (isinstance(content, dict) and content.get("format") == FORMAT):
        names = [key for key in content if isinstance(key, str)] if isinstance(content, dict) else None
        content_type = sorted(names)[:5] if names is not None else type(content).__name__
        raise CheckpointError(
            f"{path} is not a tailseg checkpoint: expected format {FORMAT!r}, found {content_type}; `tailseg convert` "
            "reads the files of mmdetection, detectron2 and torchvision"
        )
    try:
        frequency = content["frequency"]
        loaded = Checkpoint(
            recipe=content["recipe"],
            categories=tuple(Category(**category) for category in content["categories"]),
            frequency=ClassFrequency(
                image_counts=frequency["image_counts"],
                instance_counts=frequency["instance_counts"],
                num_images=frequency["num_images"],
                groups=tuple(frequency["groups"]),
            ),
            model=content["model"],
            optimizer=content["optimizer"],
            progress=Progress(**content["progress"]),
            trained=content.get("trained", {}),
            scaler=content.get("scaler", {}),
            data=content.get("data", ""),
        )
        _check_types(loaded)
        return replace(loaded, recipe=with_new_names(loaded.recipe))
    except MALFORMED as error:
        raise CheckpointError(f"{path}: a part is missing or has a wrong type ({error!r})") from None


def _check_types(checkpoint: Checkpoint) -> None:
    """Checks that each part has the type that `Checkpoint` states.

    Raises:
        TypeError: a part has another type; names it.
    """
    recipe, frequency, progress = checkpoint.recipe, checkpoint.frequency, checkpoint.progress
    counts, groups = (frequency.image_counts, frequency.instance_counts), [*frequency.groups]
    categories = checkpoint.categories
    right = {
        "recipe": isinstance(recipe, dict)
        and isinstance(recipe.get("recipe"), str)
        and isinstance(recipe.get("resolved"), dict)
        and json.loads(json.dumps(recipe)) == recipe,
        "categories": all(type(category.id) is int and type(category.name) is str for category in categories),
        "groups": all(
            type(group) is str and group in get_args(Group)
            for group in [category.group for category in categories] + groups
        )
        and len(categories) == len(groups),
        "frequency": all(isinstance(n, Tensor) and n.dtype == torch.int64 and n.ndim == 1 for n in counts)
        and type(frequency.num_images) is int,
        "model": _is_state(checkpoint.model),
        "trained": _is_state(checkpoint.trained),
        "optimizer": isinstance(checkpoint.optimizer, dict),
        "scaler": isinstance(checkpoint.scaler, dict),
        "data": isinstance(checkpoint.data, str),
        "progress": all(type(getattr(progress, name)) is int for name in COUNTS)
        and isinstance(progress.best, float | int | None)
        and isinstance(progress.gained_to, float | int | None)
        and isinstance(progress.window, dict)
        and all(isinstance(value, float | int) for value in progress.window.values())
        and isinstance(progress.replaced, list)
        and isinstance(progress.first_losses, list)
        and all(isinstance(value, float) for value in progress.first_losses),
    }
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise TypeError(wrong[0])


COUNTS = (
    "epoch",
    "step_in_epoch",
    "step",
    "left_out",
    "left_out_in_a_row",
    "high_losses",
    "diverged_losses",
    "evaluations_without_gain",
)
"""The counters of `Progress`."""


def _is_state(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


GLOBALS = re.compile(
    r"torch(\._utils _rebuild_tensor_v[23]|\._tensor _rebuild_from_type_v2| \w+)|collections OrderedDict"
)
"""The names in the checkpoints of tailseg: tensors, their storages and types. torch itself would also allow a bytearray
of any size."""


def check_archive(path: Path) -> None:
    """Checks a file of torch.save before torch reads it: torch writes CRC-32 sums but does not check them.

    Raises:
        zipfile.BadZipFile: bytes have changed; parts are larger than the file, which could fill the memory; or the file
            has names that no checkpoint has.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise zipfile.BadZipFile("its parts are larger than the file: torch does not compress them")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong: its bytes have changed")
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                for operation, argument, _ in pickletools.genops(archive.read(name)):
                    if operation.name == "GLOBAL" and not GLOBALS.fullmatch(str(argument)):
                        raise zipfile.BadZipFile(f"it names {argument}")


def _load_weights(path: Path, device: torch.device | str) -> Checkpoint:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            if header.get("format") != WEIGHTS_FORMAT:
                raise CheckpointError(
                    f"{path} holds tensors, but not tailseg's recipe and classes in its header (format "
                    f"{WEIGHTS_FORMAT!r}, found {header.get('format')!r}): `tailseg convert` adds them"
                )
            model = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            sums = json.loads(header.get("crc32", "{}"))
            damaged = [name for name, tensor in model.items() if name in sums and _checksum(tensor.cpu()) != sums[name]]
            if damaged:
                raise CheckpointError(f"{path} is damaged: the bytes of {damaged[0]} have changed: write it again")
    except (SafetensorError, OSError, json.JSONDecodeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated, or no safetensors file ({error}): write it again") from None
    try:
        frequency = json.loads(header["frequency"])
        loaded = Checkpoint(
            recipe=json.loads(header["recipe"]),
            categories=tuple(Category(**category) for category in json.loads(header["categories"])),
            frequency=ClassFrequency(
                image_counts=torch.tensor(frequency["image_counts"], dtype=torch.int64),
                instance_counts=torch.tensor(frequency["instance_counts"], dtype=torch.int64),
                num_images=frequency["num_images"],
                groups=tuple(frequency["groups"]),
            ),
            model=model,
            optimizer={},
            progress=Progress(),
        )
        _check_types(loaded)
        return replace(loaded, recipe=with_new_names(loaded.recipe))
    except MALFORMED as error:
        raise CheckpointError(f"{path}: its header is damaged ({error!r}): write it again") from None
