"""State dicts of one layout renamed into another by a table of rules, with every key accounted for.

A rule is a pair of patterns, theirs and ours. ``{i}`` (and any other one letter) stands for a number, ``{p}`` for
``weight`` or ``bias``, ``{rest}`` for anything; what a field matches on one side is put in its place on the other:

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
"""The number of keys of each kind that an error names."""
BATCH_COUNT = "num_batches_tracked"
"""A batch norm's count of batches, which old and stripped files lack and nothing needs."""


def unchanged(tensor: Tensor) -> Tensor:
    """Returns the tensor itself."""
    return tensor


@dataclass(frozen=True)
class Rule:
    """Translates keys of another project to tailseg's names, and back.

    Attributes:
        theirs: pattern of the file's keys.
        ours: pattern of our keys; None drops matching keys of the file.
        read: converts their tensor to ours, if the layout differs.
        write: the inverse of ``read``.
    """

    theirs: str
    ours: str | None
    read: Callable[[Tensor], Tensor] = unchanged
    write: Callable[[Tensor], Tensor] = unchanged

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
        return _compile(self.theirs), None if self.ours is None else _compile(self.ours)

    def to_ours(self, key: str) -> str | None:
        """Returns our name for their key; None if the rule does not match the key or drops it."""
        match = self._patterns[0].fullmatch(key)
        return self.ours.format(**match.groupdict()) if match and self.ours else None

    def to_theirs(self, key: str) -> str | None:
        """Returns their name for our key; None if the rule does not match the key."""
        pattern = self._patterns[1]
        match = pattern.fullmatch(key) if pattern else None
        return self.theirs.format(**match.groupdict()) if match else None

    def drops(self, key: str) -> bool:
        """Returns whether their key is known and not needed here."""
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
        left_out: keys of the source that the target has no place for and does not need.
        missing: keys of the target that the source lacks; they have the target's values.
    """

    state: dict[str, Tensor]
    left_out: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass
class Problems:
    """The reasons why a file does not fit, by kind."""

    keys: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, keys: Iterable[str]) -> None:
        self.keys.setdefault(kind, []).extend(keys)

    def raise_if_any(self, source: str, expected: str) -> None:
        """Raises an error that names the first keys of each kind, if there are any.

        Args:
            source: what the error calls the file.
            expected: what the error calls the model.

        Raises:
            CheckpointError: there is a problem.
        """
        kinds = [f"{kind}: {shorten(keys)}" for kind, keys in self.keys.items() if keys]
        if kinds:
            raise CheckpointError(f"{source} does not fit {expected}. {'; '.join(kinds)}")


def shorten(keys: Sequence[str]) -> str:
    """Joins the first keys, and adds how many more there are."""
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
    """Converts their state dict to our names, types and shapes.

    Args:
        state: the file's tensors by their names.
        expected: our model's state dict. The result has the same names; the values are used where the file may lack a
            key.
        rules: the first one that translates a key to one of ours is used.
        source: what errors call the file.
        target: what errors call the model.
        optional: says which of our keys the file may lack.

    Returns:
        The converted state dict.

    Raises:
        CheckpointError: keys are unexpected or missing, or shapes differ. The message names the first keys of each
            kind, by the file's names.
    """
    problems = Problems()
    converted: dict[str, Tensor] = {}
    left_out, unexpected, reshaped = [], [], []
    given: set[str] = set()
    for key, tensor in state.items():
        match = _find_rule(key, rules, expected)
        if match is None:
            (left_out if any(rule.drops(key) for rule in rules) else unexpected).append(key)
            continue
        rule, ours = match
        given.add(ours)
        target_tensor = expected[ours]
        theirs = rule.write(target_tensor)  # before reading: a rule that moves channels expects their shape
        if tensor.shape != theirs.shape:
            reshaped.append(f"{key} is {list(tensor.shape)}, expected {list(theirs.shape)}")
        elif _kind(tensor) != _kind(theirs):
            reshaped.append(f"{key} is {tensor.dtype}, expected {theirs.dtype}")
        else:
            converted[ours] = rule.read(tensor).to(target_tensor.dtype)
    absent = [ours for ours in expected if ours not in given]
    problems.add("missing keys", [find_their_name(ours, rules) or ours for ours in absent if not optional(ours)])
    problems.add("unexpected keys", unexpected)
    problems.add("other shapes", reshaped)
    problems.raise_if_any(source, target)
    missing = tuple(ours for ours in absent if not ours.endswith(BATCH_COUNT))
    return Converted({ours: converted.get(ours, expected[ours]) for ours in expected}, tuple(left_out), missing)


def _kind(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Returns the kind of numbers; conversion within a kind keeps their meaning."""
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def write_by_rules(state: Mapping[str, Tensor], rules: Sequence[Rule], *, optional: Callable[[str], bool]) -> Converted:
    """Converts our state dict to their names; the inverse of `read_by_rules`.

    Args:
        state: our tensors by our names.
        rules: the first one that matches a key is used.
        optional: says which of our keys may be left out if no rule matches them.

    Returns:
        The converted state dict.

    Raises:
        CheckpointError: no rule matches a key.
    """
    converted: dict[str, Tensor] = {}
    left_out, unknown = [], []
    for key, tensor in state.items():
        for rule in rules:
            theirs = rule.to_theirs(key)
            if theirs is not None:
                converted[theirs] = rule.write(tensor)
                break
        else:
            (left_out if optional(key) else unknown).append(key)
    problems = Problems()
    problems.add("keys without a name there", unknown)
    problems.raise_if_any("the model", "the other layout")
    return Converted(converted, tuple(left_out))


def find_their_name(key: str, rules: Sequence[Rule]) -> str | None:
    """Returns their name for our key by the first rule that matches; None if there is none."""
    return next((theirs for rule in rules if (theirs := rule.to_theirs(key)) is not None), None)


def find_our_name(key: str, rules: Sequence[Rule], known: Container[str]) -> str | None:
    """Returns our name for their key by the first rule that gives a known name.

    Args:
        key: their key.
        rules: the rules in order.
        known: our names.

    Returns:
        Our name, or None if no rule gives a known one.
    """
    match = _find_rule(key, rules, known)
    return match[1] if match else None


def _find_rule(key: str, rules: Sequence[Rule], known: Container[str]) -> tuple[Rule, str] | None:
    for rule in rules:
        ours = rule.to_ours(key)
        if ours is not None and ours in known:
            return rule, ours
    return None
