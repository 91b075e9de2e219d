"""One small run, trained once by the command line itself."""

from pathlib import Path

import pytest

from tailseg.cli import main

SMALL = [
    "--model.backbone.weights=none",
    "--model.backbone.frozen-stages=0",
    "--model.backbone.base-width=8",
    "--model.fpn.channels=8",
    "--model.box.hidden=16",
    "--model.mask.channels=8",
    "--model.postprocess.max-detections=20",
    "--data.short-sides=64",
    "--data.test-short-side=64",
    "--data.batch-size=8",
    "--data.workers=0",
    "--optim.epochs=1",
    "--optim.milestones=1",
]
"""Options that make any recipe a matter of seconds."""


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache folder of the embedded data set, shared by the tests of a session."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILSEG_HOME", str(home))
    monkeypatch.delenv("TAILSEG_DEBUG", raising=False)


@pytest.fixture(scope="session")
def run(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a trained run on the smallest draw of tiny_tail."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILSEG_HOME", str(home))
        data = ["--data.train=tiny_tail:test", "--data.val=tiny_tail:test"]
        assert main(["train", "tiny_gumbel", *data, *SMALL, f"--run.out={folder}"]) == 0
    return folder


@pytest.fixture
def photos(run: Path, home: Path) -> Path:
    """Folder of a few images (the run has drawn them)."""
    (folder,) = home.glob("tiny_tail-test-*/val")
    return folder
