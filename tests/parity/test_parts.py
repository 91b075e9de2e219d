"""APA, AGLU, SE-ResNet, CARAFE, the predictors and DropLoss against the code of GOL's authors after 2022."""

from pathlib import Path

import pytest

from .assertions import TRIMMED, assert_equal
from .golden import golden_files
from .parity import measure_file

NAMES = (
    "f_se_resnet",
    "f2_se_resnet_aglu",
    "g_activations",
    "h_droploss",
    "i_predictors",
    "j_carafe",
    "j2_mask_head_carafe",
    "j3_mask_head_deconv",
    "k_fracal",
)
TRIMMED_NAMES = [name for name in NAMES if (TRIMMED / f"2024/{name}.safetensors").is_file()]


@pytest.mark.parametrize("name", TRIMMED_NAMES)
def test_the_files_of_the_repository(name: str) -> None:
    assert golden_files(TRIMMED / "2024")[name] in ("part", "backbone")
    assert_equal(measure_file(TRIMMED / "2024", name, golden_files(TRIMMED / "2024")[name]))


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("f")])
def test_the_full_files(shared: Path, name: str) -> None:
    assert_equal(measure_file(shared / "golden/2024", name, "part"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f_se_resnet", "f2_se_resnet_aglu"])
def test_the_full_backbones(shared: Path, name: str) -> None:
    assert_equal(measure_file(shared / "golden/2024", name, "backbone"))


def test_all_kinds_are_trimmed() -> None:
    assert len(TRIMMED_NAMES) == len(NAMES) - 2
    assert sum(path.stat().st_size for path in (TRIMMED / "2024").iterdir()) < 750_000
