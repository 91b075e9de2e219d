"""The device of a run. There is no Apple GPU here: torch's answer to the question for one is replaced."""

import pytest
import torch

from tailseg.training.device import choose_device


@pytest.mark.parametrize("available", [False, True])
def test_an_apple_gpu_is_taken_by_its_name_alone(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: available)
    assert choose_device("auto") == torch.device("cpu")
    if available:
        assert choose_device("mps") == torch.device("mps")
    else:
        with pytest.raises(ValueError, match="mps, but torch finds no Apple GPU here: use auto or cpu"):
            choose_device("mps")
