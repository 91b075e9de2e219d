"""`tailseg push` and `tailseg pull`: a folder stands for the hub; nothing of this machine leaves it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors import safe_open

from tailseg.cli import main
from tailseg.detection import recalibration
from tailseg.detection.recalibration import Calibration, Setting
from tailseg.interop import read_classes
from tailseg.interop.hub import FILES, check_name, without_paths
from tailseg.training.checkpoint import load, save

NAME = "me/my_model"


@pytest.fixture
def mine(run: Path, photos: Path, tmp_path: Path) -> Path:
    """The run as a user's own: with paths of data, a report, pictures and results in its folder."""
    mine = shutil.copytree(run, tmp_path / "secret_place" / "mine")
    checkpoint = mine / "checkpoints" / "best.pt"
    saved = load(checkpoint)
    saved.recipe["resolved"]["data"] |= {
        "train": str(photos.parent / "train.json"),
        "val": str(photos.parent / "val.json"),
        "train_images": str(photos),
    }
    saved.recipe["resolved"]["run"] |= {"out": str(mine), "init_from": str(mine / "start.pt")}
    saved.recipe["resolved"]["model"]["backbone"]["weights"] = str(mine / "backbone.pth")
    saved.recipe["folder"] = str(mine)
    saved.progress.replaced.append(f"{photos}/broken.jpg is broken")
    save(saved, checkpoint)
    (mine / "recipe.json").write_text(json.dumps(saved.recipe))
    metrics = json.loads((mine / "metrics.json").read_text())
    (mine / "metrics.json").write_text(json.dumps(metrics | {"notes": [f"{photos} has notes"]}))
    (mine / "report.html").write_text("my report")
    (mine / "predictions").mkdir()
    (mine / "predictions" / "a.jpg").write_bytes(b"my picture")
    return mine


@pytest.fixture
def hub(mine: Path, tmp_path: Path) -> Path:
    assert main(["push", str(mine), NAME, "--yes", "--to", str(tmp_path / "hub")]) == 0
    return tmp_path / "hub"


def test_only_weights_recipe_classes_and_card_are_published_and_no_path(mine: Path, hub: Path, photos: Path) -> None:
    files = {str(path.relative_to(hub / NAME)) for path in hub.rglob("*") if path.is_file()}
    assert files == {"README.md", "recipe.json", "classes.json", "checkpoints/converted.safetensors"}
    home = str(Path.home())
    for name in files:
        content = (hub / NAME / name).read_bytes()
        for private in ("secret_place", str(photos), str(mine.parent), "train.json", "broken.jpg", f"{home}/", "/tmp"):
            assert private.encode() not in content, (name, private)


def test_the_pulled_run_predicts_tests_and_starts_a_training(
    mine: Path,
    run: Path,
    hub: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["pull", NAME, "--from", str(hub)]) == 0
    pulled = tmp_path / "runs" / "my_model"
    before, after = load(mine / "checkpoints" / "best.pt"), load(pulled / "checkpoints" / "converted.safetensors")
    assert all(torch.equal(after.model[name], tensor) for name, tensor in before.model.items())
    assert after.categories == before.categories
    categories, frequency = read_classes(pulled / "classes.json")
    assert categories == before.categories
    assert torch.equal(frequency.image_counts, before.frequency.image_counts)
    image, found = str(min(photos.iterdir())), {}
    for folder in (run, pulled):
        out = tmp_path / f"found_{folder.name}"
        assert main(["predict", str(folder), image, "--out", str(out), "--score-threshold", "0", "--no-pictures"]) == 0
        found[folder] = json.loads((out / "results.json").read_text())
    assert found[run] == found[pulled] != []
    assert main(["test", str(pulled), "--val", str(photos.parent / "val.json")]) == 0
    assert f"take them as results of {photos.parent / 'val.json'}" in " ".join(capsys.readouterr().out.split())
    scores = json.loads((pulled / "metrics.json").read_text())["scores"]
    assert scores == json.loads((run / "metrics.json").read_text())["scores"]
    options = ["--init-from", str(pulled), "--optim.lr=0", f"--run.out={tmp_path / 'next'}", "--data.workers=0"]
    assert (
        main(["train", str(photos.parent / "train.json"), "--data.val", str(photos.parent / "val.json"), *options]) == 0
    )
    model = load(tmp_path / "next" / "checkpoints" / "best.pt").model
    assert all(torch.equal(model[name], before.model[name]) for name in before.model if "num_batches" not in name)


def test_calibration_and_thresholds_of_the_checkpoint_come_along(
    mine: Path, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = Calibration(Setting("NorCal", 0.5))
    recalibration.save(calibration, mine / "calibration.json")
    stored, truth = mine / "thresholds.json", str(photos.parent / "val.json")
    find = ["thresholds", truth, str(run / "results.json"), "--only=bbox", "--samples=2", "--out", str(stored)]
    assert main(find) == 0
    step = load(mine / "checkpoints" / "best.pt").progress.step
    content = json.loads(stored.read_text()) | {"source": {"calibration": "NorCal 0.5", "step": step}}
    stored.write_text(json.dumps(content))
    push = ["push", str(mine), "x", "--yes", "--to", str(tmp_path / "hub")]
    assert main(push) == 0
    pulled = tmp_path / "pulled"
    assert main(["pull", "x", "--from", str(tmp_path / "hub"), "--out", str(pulled)]) == 0
    assert {path.name for path in pulled.iterdir()} == {Path(name).parts[0] for name in FILES}
    capsys.readouterr()
    image = str(min(photos.iterdir()))
    assert main(["predict", str(pulled), image, "--out", str(tmp_path / "found"), "--no-pictures"]) == 0
    text = capsys.readouterr().out
    assert "Scores are calibrated: NorCal 0.5" in text
    assert "(thresholds.json)" in text
    stored.write_text(json.dumps(content | {"source": {"calibration": "none", "step": step + 1}}))
    assert main([*push[:2], "y", *push[3:]]) == 0
    assert "is of another checkpoint and is left out" in capsys.readouterr().out
    assert not (tmp_path / "hub" / "y" / "thresholds.json").exists()


def test_the_card_has_figures_and_the_commands(hub: Path, run: Path) -> None:
    card = (hub / NAME / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: tailseg\npipeline_tag: image-segmentation\n")
    assert f"tailseg pull {NAME}\ntailseg predict runs/my_model photo.jpg" in card
    ap = json.loads((run / "metrics.json").read_text())["scores"]["segm"]["AP"]
    assert f"| masks | {100 * ap:.1f} |" in card


def test_it_asks_and_a_script_must_say_yes(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["push", str(mine), NAME, "--to", str(tmp_path / "hub")]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert main(command) == 2
    assert "Add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    for answer, published in (("n", False), ("", False), ("y", True)):
        monkeypatch.setattr("builtins.input", lambda *_, answer=answer: answer)
        assert main(command) == 0
        text = capsys.readouterr().out
        assert "checkpoints/converted.safetensors" in text.split("Publish these 4 files")[0], "the list comes first"
        assert (tmp_path / "hub").exists() == published
        assert ("Nothing was published" in text) != published


def test_the_hub_gets_a_private_model_with_these_files_alone(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's own functions get these calls; `upload_folder` stands for the network."""
    calls = []

    class Api:
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            calls.append((repo_id, private, exist_ok))

        def upload_folder(
            self,
            *,
            repo_id: str,
            folder_path: Path,
            allow_patterns: list[str],
            delete_patterns: list[str],
            commit_message: str,
        ) -> str:
            assert {*allow_patterns, *delete_patterns} == {*FILES}
            shutil.copytree(folder_path, tmp_path / "remote" / repo_id)
            calls.append(allow_patterns)
            return "https://hub/commit"

    def snapshot_download(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        assert (revision, allow_patterns) == ("v1", list(FILES))
        return str(tmp_path / "remote" / repo_id)

    for name, kind in (("create_repo", "HfApi"), ("upload_folder", "HfApi")):
        assert hasattr(getattr(huggingface_hub, kind), name)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert main(["push", str(mine), NAME, "--yes"]) == 0
    assert calls == [(NAME, True, True), list(FILES[:4])]
    (tmp_path / "remote" / NAME / "evil.py").write_text("raise SystemExit")
    out = tmp_path / "pulled"
    assert main(["pull", NAME, "--out", str(out), "--revision", "v1"]) == 0
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(FILES[:4])


def test_without_the_package_the_extra_is_named(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    assert main(["push", str(mine), NAME, "--yes"]) == 1
    assert "pip install 'tailseg[hub]'" in capsys.readouterr().err


def test_a_path_in_another_setting_is_refused(run: Path, tmp_path: Path) -> None:
    saved = json.loads((run / "recipe.json").read_text())
    for path in (str(tmp_path), "~/weights", "C:\\weights", "\\\\server\\data"):
        saved["resolved"]["loss"] = {"type": "my_code:Loss", "counts": [path]}
        with pytest.raises(ValueError, match=r"^loss\.counts is .*a path on this machine"):
            without_paths(saved)
    saved["resolved"]["loss"] = {"type": "my_code:Loss", "counts": ["no/such/file"]}
    assert without_paths(saved)["resolved"]["loss"]["type"] == "my_code:Loss"
    assert without_paths(saved)["resolved"]["data"]["train"] == "tiny_tail:test"


@pytest.mark.parametrize("name", ["../x", "a/b/c", "/x", "a/..", "", "a b", "a/../b", "x" * 97])
def test_names_that_are_none(name: str, mine: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the name of a model"):
        check_name(name)


def test_what_cannot_be_fetched_is_said(
    mine: Path, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    source = ["--from", str(hub)]
    recipe = hub / NAME / "recipe.json"
    for change, arguments, code, message in (
        (
            None,
            ["pull", "absent", *source, *out],
            1,
            "does not exist. Expected a folder that `tailseg push --to` wrote",
        ),
        (None, ["pull", NAME, *source, "--out", str(mine)], 2, "has a trained run already"),
        (None, ["pull", NAME, *source, "--revision", "a", *out], 2, "--revision is for the hub"),
        (None, ["push", str(tmp_path / "absent"), NAME, "--yes"], 1, "no run in"),
        ("{}", ["pull", NAME, *source, *out], 1, "is not the recipe of its weights"),
        ("{", ["pull", NAME, *source, *out], 1, "is not JSON"),
        ("", ["pull", NAME, *source, *out], 1, "it has no recipe.json"),
    ):
        if change is not None:
            recipe.write_text(change)
        if change == "":
            recipe.unlink()
        assert main(arguments) == code, message
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_damaged_or_a_link_is_not_fetched(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content, message in (
        ("thresholds.json", "{", "thresholds.json"),
        ("calibration.json", "[]", "calibration.json"),
        (
            "classes.json",
            '{"num_images": 1, "categories": []}',
            "classes.json of me/my_model is not that of its weights",
        ),
    ):
        copy = tmp_path / name
        shutil.copytree(hub, copy)
        (copy / NAME / name).write_text(content)
        assert main(["pull", NAME, "--from", str(copy), "--out", str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    (hub / NAME / "README.md").unlink()
    (hub / NAME / "README.md").symlink_to(tmp_path / "secret")
    assert main(["pull", NAME, "--from", str(hub), "--out", str(tmp_path / "out")]) == 1
    assert "is a link to a file outside of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_thresholds_of_other_weights_do_not_stay(
    mine: Path, hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pull = ["pull", NAME, "--overwrite", "--from", str(hub), "--out", str(tmp_path / "out")]
    assert main(pull) == 0
    for folder in (hub / NAME, tmp_path / "out"):
        (folder / "thresholds.json").write_text("{}")
    (hub / NAME / "thresholds.json").unlink()
    assert main(pull) == 0
    assert (tmp_path / "out" / "thresholds.json").exists()  # the same weights
    (hub / NAME / "thresholds.json").write_text("{}")
    saved = load(mine / "checkpoints" / "best.pt")
    for value in saved.model.values():
        value.add_(1)
    save(saved, mine / "checkpoints" / "best.pt")
    for command in (["push", str(mine), NAME, "--yes", "--overwrite", "--to", str(hub)], pull):
        assert main(command) == 0
        assert "note: removed thresholds.json of" in capsys.readouterr().out
    assert not (hub / NAME / "thresholds.json").exists()
    assert not (tmp_path / "out" / "thresholds.json").exists()


def test_the_weights_have_the_recipe_without_paths(hub: Path) -> None:
    with safe_open(hub / NAME / "checkpoints/converted.safetensors", "pt") as file:
        assert json.loads(file.metadata()["recipe"]) == json.loads((hub / NAME / "recipe.json").read_text())
