"""State dicts of one layout renamed into another by a table of rules, with every key accounted for.

A rule is a pair of patterns, theirs and ours. ``{i}`` (and any other one letter) stands for a number, ``{p}`` for
``weight`` or ``bias``, ``{rest}`` for anything; what a field matches on one side is put in its place on the other::

    Rule("neck.lateral_convs.{i}.conv.{p}", "fpn.lateral.{i}.{p}")
"""

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from tailseg.training.checkpoint import CheckpointError

SHOWN = 5
"""Keys that an error lists of each kind."""
BATCH_COUNT = "num_batches_tracked"
"""A batch norm's count of batches: bookkeeping that old files and stripped files lack."""


def unchanged(tensor: Tensor) -> Tensor:
    """The tensor itself."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """How keys that match ``theirs`` are called here, and back.

    Attributes:
        theirs: pattern of the file's keys.
        ours: pattern of our keys; None leaves matching keys of the file out.
        read: makes our tensor of theirs, where the layout differs.
        write: the inverse.
    """

    theirs: str
    ours: str | None
    read: Callable[[Tensor], Tensor] = unchanged
    write: Callable[[Tensor], Tensor] = unchanged

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
        return _compile(self.theirs), None if self.ours is None else _compile(self.ours)

    def to_ours(self, key: str) -> str | None:
        """Our name of their key; None when the rule does not speak of it, or leaves it out."""
        found = self._patterns[0].fullmatch(key)
        return self.ours.format(**found.groupdict()) if found and self.ours else None

    def to_theirs(self, key: str) -> str | None:
        """Their name of our key; None when the rule does not speak of it."""
        pattern = self._patterns[1]
        found = pattern.fullmatch(key) if pattern else None
        return self.theirs.format(**found.groupdict()) if found else None

    def leaves_out(self, key: str) -> bool:
        """Whether their key is known to be of no use here."""
        return self.ours is None and self._patterns[0].fullmatch(key) is not None


def _compile(pattern: str) -> re.Pattern[str]:
    fields = {"p": "weight|bias", "rest": ".+"}
    parts = re.split(r"\{(\w+)\}", pattern)
    return re.compile(
        "".join(
            f"(?P<{part}>{fields.get(part, '[0-9]+')})" if i % 2 else re.escape(part) for i, part in enumerate(parts)
        )
    )


@dataclass(frozen=True)
class Converted:
    """A renamed state dict.

    Attributes:
        state: complete, in the target's names.
        left_out: keys of the source that the target has no place for, and that nothing needs.
        kept: keys of the target that the source lacks, left as the target had them.
    """

    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


@dataclass
class Problems:
    """What keeps a file from fitting, kind by kind; every kind lists its first few keys."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, keys: Iterable[str]) -> None:
        self.found.setdefault(kind, []).extend(keys)

    def stop_if_any(self, source: str, expected: str) -> None:
        """Raises:
        CheckpointError: something was added.
        """
        kinds = [f"{kind}: {few(keys)}" for kind, keys in self.found.items() if keys]
        if kinds:
            raise CheckpointError(f"{source} does not fit {expected}. {'; '.join(kinds)}")


def few(keys: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    rest = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{', '.join(keys[:SHOWN])}{rest}"


def read_by_rules(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    rules: Sequence[Rule],
    *,
    source: str,
    target: str,
    optional: Callable[[str], bool],
) -> Converted:
    """Their state dict in our names, types and shapes.

    Args:
        state: the file's tensors by their names.
        expected: our model's state dict: what must come out, name by name; its values stand where the file may lack
            a key.
        rules: the first that leads from a key to one of ours decides.
        source: how errors call the file.
        target: how errors call the model.
        optional: which of our keys the file may lack.

    Raises:
        CheckpointError: unexpected or missing keys, or other shapes; the message names the first of each kind in the
            file's own names.
    """
    problems = Problems()
    made: dict[str, Tensor] = {}
    left_out, unexpected, reshaped = [], [], []
    given: set[str] = set()
    for key, tensor in state.items():
        found = _rule_for(key, rules, expected)
        if found is None:
            (left_out if any(rule.leaves_out(key) for rule in rules) else unexpected).append(key)
            continue
        rule, ours = found
        given.add(ours)
        wanted = expected[ours]
        theirs = rule.write(wanted)  # before reading: a rule that moves channels expects their shape
        if tensor.shape != theirs.shape:
            reshaped.append(f"{key} is {list(tensor.shape)}, expected {list(theirs.shape)}")
        elif _kind(tensor) != _kind(theirs):
            reshaped.append(f"{key} is {tensor.dtype}, expected {theirs.dtype}")
        else:
            made[ours] = rule.read(tensor).to(wanted.dtype)
    absent = [ours for ours in expected if ours not in given]
    problems.add("missing keys", [theirs_of(ours, rules) or ours for ours in absent if not optional(ours)])
    problems.add("unexpected keys", unexpected)
    problems.add("other shapes", reshaped)
    problems.stop_if_any(source, target)
    kept = tuple(ours for ours in absent if not ours.endswith(BATCH_COUNT))
    return Converted({ours: made.get(ours, expected[ours]) for ours in expected}, tuple(left_out), kept)


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Numbers of one kind convert into each other without loss of meaning."""
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def write_by_rules(state: Mapping[str, Tensor], rules: Sequence[Rule], *, optional: Callable[[str], bool]) -> Converted:
    """Our state dict in their names; the inverse of `read_by_rules`.

    Args:
        state: our tensors by our names.
        rules: the first that knows a key decides.
        optional: which of our keys may be left out where no rule knows them.

    Raises:
        CheckpointError: a key that no rule knows.
    """
    made: dict[str, Tensor] = {}
    left_out, unknown = [], []
    for key, tensor in state.items():
        for rule in rules:
            theirs = rule.to_theirs(key)
            if theirs is not None:
                made[theirs] = rule.write(tensor)
                break
        else:
            (left_out if optional(key) else unknown).append(key)
    problems = Problems()
    problems.add("keys without a name there", unknown)
    problems.stop_if_any("the model", "the other layout")
    return Converted(made, tuple(left_out))


def theirs_of(key: str, rules: Sequence[Rule]) -> str | None:
    """Their name of our key by the first rule that knows it."""
    return next((theirs for rule in rules if (theirs := rule.to_theirs(key)) is not None), None)


def ours_of(key: str, rules: Sequence[Rule], known: Container[str]) -> str | None:
    """Our name of their key by the first rule that leads to a ``known`` one."""
    found = _rule_for(key, rules, known)
    return found[1] if found else None


def _rule_for(key: str, rules: Sequence[Rule], known: Container[str]) -> tuple[Rule, str] | None:
    for rule in rules:
        ours = rule.to_ours(key)
        if ours is not None and ours in known:
            return rule, ours
    return None
