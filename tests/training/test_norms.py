"""Running statistics of batch norms: which ones training moves, and those of the averaged weights."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tailseg.models import ResNetConfig
from tailseg.models.resnet import ResNet
from tailseg.training import norms
from tailseg.training.norms import average_over_processes, list_running_statistics, update_average


def backbone(**settings: object) -> ResNet:
    return ResNet(ResNetConfig(depth=18, base_width=8, weights="none", **settings))


def test_fixed_and_frozen_norms_have_no_statistics_to_learn() -> None:
    assert list_running_statistics(backbone()) == ()
    learned = list_running_statistics(backbone(fixed_norm=False, frozen_stages=1))
    assert "layer2.0.bn1.running_mean" in learned
    assert "layer2.0.bn1.running_var" in learned
    assert not any(name.startswith(("bn1", "layer1")) for name in learned)
    assert len(list_running_statistics(backbone(fixed_norm=False, frozen_stages=0))) == 2 * 20


class Counting(nn.Sequential):
    """A layer, a norm and a count."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.Sequential's name)
        self.calls += 1
        return super().forward(input)


def test_the_average_has_the_average_of_the_statistics() -> None:
    """After the first step they are the model's; then s_t = 0.8 s_(t-1) + 0.2 r_t, as the weights'."""
    torch.manual_seed(0)
    model = Counting()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    statistics = list_running_statistics(model)
    assert statistics == ("1.running_mean", "1.running_var")
    expected: dict[str, torch.Tensor] = {}
    for step in range(4):
        model(torch.randn(8, 3, 4, 4) + step)
        with torch.no_grad():
            model[0].weight += 0.1
        update_average(average, model, statistics)
        for name in (*statistics, "0.weight"):
            now = model.state_dict()[name].double()
            expected[name] = 0.8 * expected[name] + 0.2 * now if name in expected else now
    found = average.module.state_dict()
    for name, values in expected.items():
        torch.testing.assert_close(found[name].double(), values, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(found[name], model.state_dict()[name], rtol=1e-3)
    assert found["calls"] == 4
    assert found["1.num_batches_tracked"] == 4


def test_averaged_weights_have_the_statistics_of_their_own_maps() -> None:
    """Weights that grow evenly: after many steps the average's maps have the mean that its norm says."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, momentum=None))
    model[1].momentum = 1.0  # statistics of the last batch: those of the weights as they are
    nn.init.zeros_(model[0].weight)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    images = torch.rand(4, 1, 8, 8)
    for _ in range(100):
        with torch.no_grad():
            model[0].weight += 1
            model(images)
        update_average(average, model, list_running_statistics(model))
    maps = average.module[0](images)
    assert average.module[1].running_mean.item() == pytest.approx(maps.mean().item(), rel=1e-4)
    assert model[1].running_mean.item() > 1.05 * maps.mean().item()


@pytest.mark.parametrize("count", [2, 3])
def test_statistics_become_their_mean_over_processes_and_equal_ones_stay(count, monkeypatch) -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)) for _ in range(count)]
    for model in models:
        model(torch.randn(8, 3, 4, 4))
    statistics = list_running_statistics(models[0])
    before = [{name: model.get_buffer(name).clone() for name in statistics} for model in models]
    weights = deepcopy(models[0][0].weight)
    monkeypatch.setattr(norms, "world_size", lambda: count)
    held = [torch.cat([values.double() for values in each.values()]) for each in before]
    monkeypatch.setattr(norms, "mean", lambda _values: sum(held) / count)
    average_over_processes(models[0], statistics)
    for name in statistics:
        expected = torch.stack([each[name] for each in before]).double().mean(0).float()
        assert torch.equal(models[0].get_buffer(name), expected)
    assert torch.equal(models[0][0].weight, weights)
    after = {name: models[0].get_buffer(name).clone() for name in statistics}
    monkeypatch.setattr(norms, "mean", lambda values: sum([values] * count) / count)
    average_over_processes(models[0], statistics)
    assert all(torch.equal(models[0].get_buffer(name), values) for name, values in after.items())
