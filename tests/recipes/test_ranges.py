"""Every number of every setting has a range, and what lies outside is refused by the name that the user knows."""

import copy
import dataclasses
import importlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest

from tailseg import cli
from tailseg.cli import main
from tailseg.cli.calibrate import Calibrate
from tailseg.cli.common import parse
from tailseg.cli.compare import Compare
from tailseg.cli.convert import Convert
from tailseg.cli.data import DataShow
from tailseg.cli.data_convert import DataExport
from tailseg.cli.data_edit import DataFilter, DataSample, DataSplit
from tailseg.cli.data_errors import DataErrors
from tailseg.cli.demo import Demo
from tailseg.cli.eval import Eval
from tailseg.cli.export import Export
from tailseg.cli.lab import Lab
from tailseg.cli.predict import Predict
from tailseg.cli.report import Report
from tailseg.cli.resume import ChangedData, ChangedOptim, ChangedRun, Resume
from tailseg.cli.serve import Serve
from tailseg.cli.submit import Submit, Training
from tailseg.cli.test import Test as RunTest
from tailseg.cli.thresholds import Thresholds
from tailseg.cli.train import Train
from tailseg.data.settings import ColorConfig, CopyPasteConfig, CropConfig, JitterConfig
from tailseg.losses import LossConfig
from tailseg.models.config import (
    CascadeConfig,
    GroupedConfig,
    HTCConfig,
    NormalizedConfig,
    ResNetConfig,
    SEConfig,
    SwinConfig,
    TimmConfig,
    WrappedCauchyConfig,
)
from tailseg.ranges import Range, SettingError, Settings, check_ranges, choices_of, option, ranges_of
from tailseg.recipes import RECIPES, AdamWConfig, get_recipe
from tailseg.recipes.recipe import Recipe, ScheduleConfig
from tailseg.recipes.saved import from_plain, to_plain

BASE = get_recipe("tiny_gumbel")
FULL = replace(
    BASE,
    data=replace(BASE.data, crop=CropConfig(), jitter=JitterConfig(), color=ColorConfig(), paste=CopyPasteConfig()),
    model=replace(
        BASE.model,
        backbone=ResNetConfig(depth=50, grouped=GroupedConfig()),
        box=replace(BASE.model.box, normalized=NormalizedConfig()),
        mask=replace(BASE.model.mask, normalized=NormalizedConfig()),
        cascade=CascadeConfig(),
    ),
)


def variants():
    """Recipes that together have every class of settings, by a name."""
    yield "full", FULL
    yield "AdamW", replace(BASE, optim=AdamWConfig())
    later = {
        "backbone": ResNetConfig(depth=50, se=SEConfig()),
        "box": replace(BASE.model.box, wrapped_cauchy=WrappedCauchyConfig()),
    }
    yield "SE and wrapped Cauchy", replace(BASE, model=replace(BASE.model, **later))
    yield "HTC", replace(FULL, model=replace(FULL.model, cascade=HTCConfig()))
    for loss in get_args(LossConfig):
        yield loss.__name__, replace(BASE, loss=loss())
    for backbone in (ResNetConfig, SwinConfig, TimmConfig):
        optional = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)} if backbone is TimmConfig else {}
        yield backbone.__name__, replace(BASE, model=replace(BASE.model, backbone=backbone(**optional)))


VARIANTS = dict(variants())


def parts(settings, place=""):
    """Every dataclass in a recipe with the place where the user finds it."""
    yield place, settings
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{place}.{field.name}".lstrip(".")
        for number, each in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
            if dataclasses.is_dataclass(each):
                yield from parts(each, name if number is None else f"{name}.{number}")


def classes(hint):
    """Every dataclass that the type of a recipe's field can hold."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
        for each in get_type_hints(hint).values():
            yield from classes(each)
    for each in get_args(hint):
        yield from classes(each)


ALL = sorted(set(classes(Recipe)) - {Recipe, ScheduleConfig}, key=lambda kind: kind.__name__)


def number_fields(kind):
    return [field.name for field in dataclasses.fields(kind) if field.name in ranges_of(kind)]


def has_range(hint):
    return any(isinstance(part, Range) for part in getattr(hint, "__metadata__", ()))


def outside(kind, name):
    """Numbers just outside the range of a field, and those that no field may have."""
    allowed = ranges_of(kind)[name]
    for end, step in ((allowed.ge, -1), (allowed.gt, 0), (allowed.le, 1), (allowed.lt, 0)):
        if end is not None:
            yield end + step
    if "float" in str(get_type_hints(kind)[name]):
        yield from (math.nan, math.inf, -math.inf)


def as_field(part, name, number):
    """The value of a field, with ``number`` in it; of a tuple that is None by default, in all places."""
    value = getattr(part, name)
    if isinstance(value, tuple):
        return (*value[:-1], number)
    lengths = [len(get_args(hint)) for hint in get_args(get_type_hints(type(part))[name]) if get_origin(hint) is tuple]
    return (number,) * lengths[0] if lengths else number


def test_the_variants_have_every_class():
    assert {type(part) for recipe in VARIANTS.values() for _, part in parts(recipe)} == {*ALL, Recipe}
    assert {type(part) for recipe in RECIPES.values() for _, part in parts(recipe())} <= {*ALL, Recipe}


@pytest.mark.parametrize("kind", ALL)
def test_every_number_has_a_range_and_every_class_checks_itself(kind):
    assert issubclass(kind, Settings)
    hints = get_type_hints(kind, include_extras=True)
    assert [name for name in number_fields(kind) if not has_range(hints[name])] == []


@pytest.mark.parametrize("name", VARIANTS)
def test_a_class_is_found_where_it_says(name):
    for place, part in parts(VARIANTS[name]):
        generic = ".".join("N" if word.isdecimal() else word for word in place.split("."))
        assert place == "" or generic in part.places


@pytest.mark.parametrize("kind", ALL)
def test_what_lies_outside_a_range_is_refused_by_name(kind):
    part = next(part for recipe in VARIANTS.values() for _, part in parts(recipe) if type(part) is kind)
    for name in number_fields(kind):
        assert list(outside(kind, name))
        for number in outside(kind, name):
            given = as_field(part, name, number)
            with pytest.raises(SettingError) as refusal:
                replace(part, **{name: given})
            assert f"{part.places[0]}.{name}" in str(refusal.value)
            assert f"got {given!r} " in str(refusal.value)
            assert option(f"{part.places[-1]}.{name}") in str(refusal.value)


@pytest.mark.parametrize("kind", ALL)
def test_a_text_that_is_no_choice_is_refused_by_name(kind):
    part = next(part for recipe in VARIANTS.values() for _, part in parts(recipe) if type(part) is kind)
    hints = [(field.name, get_type_hints(kind)[field.name]) for field in dataclasses.fields(kind)]
    fields = [name for name, hint in hints if "Literal['" in str(hint) and str not in (hint, *get_args(hint))]
    assert fields == list(choices_of(kind))
    for name in fields:
        changed = copy.copy(part)  # where the tests look at the types of arguments, `replace` ends before the check
        object.__setattr__(changed, name, "something")
        with pytest.raises(SettingError) as refusal:
            check_ranges(changed, part.places)
        assert f"{part.places[0]}.{name} is " in str(refusal.value)
        assert all(word in str(refusal.value) for word in choices_of(kind)[name])
        assert "got 'something' " in str(refusal.value)


@pytest.mark.parametrize("kind", ALL)
def test_the_parser_refuses_what_lies_outside_a_range(kind, capsys):
    part = next(part for recipe in VARIANTS.values() for _, part in parts(recipe) if type(part) is kind)
    for name in number_fields(kind):
        given = as_field(part, name, next(outside(kind, name)))
        arguments = [option(name), *map(str, given if isinstance(given, tuple) else [given])]
        with pytest.raises(SystemExit) as stop:
            parse(kind, arguments, command="part", default=part)
        assert stop.value.code == 2
        said = "".join(capsys.readouterr().err.replace("│", " ").split())
        assert f"{part.places[0]}.{name}" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--optim.clip-norm -1", "optim.clip_norm is above 0, or None, got -1.0 (--optim.clip-norm)"),
        ("--optim.clip-norm nan", "optim.clip_norm is above 0, or None, got nan"),
        ("--optim.epochs 0", "optim.epochs is 1 or more, got 0"),
        ("--data.short-sides 64 0", "data.short_sides is one or more numbers, each 1 or more, got (64, 0)"),
        ("--data.short-sides", "data.short_sides is one or more numbers, each 1 or more, got ()"),
        ("--model.postprocess.mask-threshold 0", "model.postprocess.mask_threshold is in (0, 1), got 0.0"),
        ("--run.checkpoint-every 0 --run.eval-every 0", "run.checkpoint_every and run.eval_every are both 0"),
        ("--model.rpn.negative-iou 0.8", "model.rpn.negative_iou is 0.8 and model.rpn.positive_iou is 0.7"),
    ],
)
def test_the_command_refuses_before_anything_is_written(arguments, said, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "tiny_gumbel", f"--run.out={out}", *arguments.split()]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not out.exists()


COMMANDS = {
    kind: name
    for name, kind in [
        ("calibrate", Calibrate),
        ("lab", Lab),
        ("compare", Compare),
        ("convert", Convert),
        ("data show", DataShow),
        ("data errors", DataErrors),
        ("data export", DataExport),
        ("data filter", DataFilter),
        ("data sample", DataSample),
        ("data split", DataSplit),
        ("demo", Demo),
        ("eval", Eval),
        ("export", Export),
        ("predict", Predict),
        ("report", Report),
        ("resume", Resume),
        ("resume: data", ChangedData),
        ("resume: optim", ChangedOptim),
        ("resume: run", ChangedRun),
        ("serve", Serve),
        ("submit", Submit),
        ("test", RunTest),
        ("thresholds", Thresholds),
        ("train", Train),
    ]
}


@pytest.mark.parametrize("kind", COMMANDS, ids=COMMANDS.values())
def test_the_options_of_commands_have_ranges_too(kind):
    names = number_fields(kind)
    assert names
    hints = get_type_hints(kind, include_extras=True)
    assert [name for name in names if not has_range(hints[name])] == []


def test_every_command_with_a_number_is_among_those():
    modules = [
        importlib.import_module(f"tailseg.cli.{file.stem}")
        for file in sorted(Path(cli.__file__).parent.glob("[!_]*.py"))
    ]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    own = {kind for kind in kinds if dataclasses.is_dataclass(kind) and kind.__module__.startswith("tailseg.cli.")}
    assert {kind for kind in own if number_fields(kind)} - {Training} == {*COMMANDS}


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "run", "photos", "--score-threshold", "nan"],
        ["demo", "--score-threshold", "-0.1"],
        ["report", "run", "--score-threshold", "1.5"],
        ["compare", "a", "b", "--seed", "-1"],
        ["submit", "--hours", "0", "--", "tiny_gumbel"],
        ["train", "tiny_gumbel", "--devices", "0"],
        ["data", "show", "my.json", "--classes", "-1"],
    ],
)
def test_an_option_outside_its_range_is_wrong_usage(arguments, capsys):
    assert main(arguments) == 2
    name = next(
        word
        for word in reversed(arguments[: arguments.index("--") if "--" in arguments else None])
        if word.startswith("--")
    )
    assert f"{name} is " in capsys.readouterr().err


def test_help_says_the_range(capsys):
    assert main(["train", "tiny_gumbel", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "published. Above 0, or None. (default: 10.0)" in said
    assert "--optim.momentum FLOAT Momentum of SGD. In [0, 1). (default: 0.9)" in said
    assert "One or more numbers, each 1 or more. (default: 112" in said


def test_a_saved_run_with_a_setting_that_is_refused_now_says_so():
    saved = json.loads(json.dumps(to_plain(BASE)))
    saved["resolved"]["optim"]["clip_norm"] = -1
    with pytest.raises(
        SettingError, match=r"old/recipe.json: optim.clip_norm is .*got -1.0.* earlier version .*train again"
    ):
        from_plain(saved, source="old/recipe.json")


@dataclass(frozen=True)
class FreeLossConfig:
    """A loss of the user's own that knows nothing of `Settings`."""

    strength: float = 1.0
    share: Annotated[float, Range(ge=0, le=1)] = 0.5

    def build(self, frequency):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strength": math.nan}, "loss.strength is a finite number"),
        ({"share": 2.0}, r"loss.share is in \[0, 1\], got 2.0"),
    ],
)
def test_a_loss_of_ones_own_is_looked_at_too(settings, said):
    with pytest.raises(SettingError, match=said):
        replace(BASE, loss=FreeLossConfig(**settings))


@pytest.mark.parametrize(
    ("allowed", "text", "inside", "out"),
    [
        (Range(), "a finite number", [0, -1e30, 10**400], [math.nan, math.inf]),
        (Range(ge=0, le=1), "in [0, 1]", [0, 1, 0.5], [-1e-9, 1.0000001, math.nan]),
        (Range(gt=0, lt=1), "in (0, 1)", [1e-9, 0.5], [0, 1]),
        (Range(gt=0), "above 0", [1e-9, 10**400], [0, -1, math.inf]),
        (Range(ge=2), "2 or more", [2, 3], [1]),
        (Range(lt=0), "below 0", [-1], [0]),
        (Range(le=0), "0 or less", [0], [1]),
        (Range(ge=1, some=True), "1 or more", [(1, 2), [3]], [(), (1, 0), 0]),
    ],
)
def test_a_range_holds_what_it_says(allowed, text, inside, out):
    assert str(allowed) == text
    assert all(map(allowed.holds, [*inside, None, "r", "a word"]))
    assert not any(map(allowed.holds, out))
