"""Configs and constructors of losses: one statement of every setting, short names, old names."""

import dataclasses
import inspect

import pytest
import torch

from tailseg import losses
from tailseg.losses import (
    LOSSES,
    BAGSLossConfig,
    BaseLossConfig,
    ConfiguredLoss,
    DropLoss,
    DropLossConfig,
    GumbelCE,
    GumbelCEConfig,
    LossConfig,
    SigmoidCEConfig,
    SoftmaxCE,
)
from tailseg.ranges import SettingError
from tailseg.structures import ClassFrequency

FREQUENCY = ClassFrequency.from_counts(torch.tensor([1, 9, 90, 900]), torch.tensor([2, 40, 180, 2000]), 1000)
every_config = pytest.mark.parametrize("config", LossConfig.__args__)


@every_config
def test_a_loss_takes_the_settings_of_its_config(config):
    loss = getattr(losses, config.loss)
    fields = [field.name for field in dataclasses.fields(config)]
    assert sorted(list(inspect.signature(loss).parameters)[1:]) == sorted(fields)
    defaults = {name: p.default for name, p in inspect.signature(loss).parameters.items() if name in fields}
    assert defaults == vars(config())
    assert loss(FREQUENCY, weight=2.5).num_classes == 4
    with pytest.raises(SettingError, match=r"loss.weight is above 0, got -1"):
        loss(FREQUENCY, weight=-1.0)
    with pytest.raises(TypeError, match="wieght"):
        loss(FREQUENCY, wieght=1.0)


def test_the_classes_are_a_number_a_frequency_or_a_keyword():
    assert GumbelCE(4).num_logits == GumbelCE(FREQUENCY).num_logits == GumbelCE(num_classes=4).num_logits == 5
    with pytest.raises(TypeError, match="num_classes"):
        GumbelCE()


@pytest.mark.parametrize(
    "config", [*LOSSES.values(), SigmoidCEConfig(background=True), BAGSLossConfig(edges=())], ids=str
)
def test_exclusive_scores_sum_to_one_at_most_and_others_do_not(config):
    loss = config.build(FREQUENCY)
    logits = 6 * torch.randn(256, loss.num_logits, generator=torch.Generator().manual_seed(0))
    assert bool(loss.scores(logits).sum(1).max() <= 1 + 1e-5) == loss.scores_are_exclusive


def test_every_loss_has_a_short_name():
    assert {type(config) for config in LOSSES.values()} == set(LossConfig.__args__)
    assert len(set(LOSSES.values())) == len(LOSSES)


def test_a_config_without_build_says_what_to_do():
    class Unfinished(BaseLossConfig):
        pass

    with pytest.raises(NotImplementedError, match=r"Unfinished has no method build\(frequency\): write one"):
        Unfinished().build(FREQUENCY)


@pytest.mark.parametrize("make", [GumbelCEConfig, DropLossConfig, lambda **old: GumbelCE(4, **old).config])
def test_parity_is_the_old_name_of_published(make):
    for parity, published in [(True, "2022"), (False, None)]:
        with pytest.warns(FutureWarning, match=r"\(parity=\.\.\.\) is now published="):
            assert make(parity=parity).published == published
    with pytest.warns(FutureWarning):
        assert DropLoss(FREQUENCY, tail="rc", parity=True).published == "2022"


def test_the_code_of_2024_has_droploss_alone():
    """Exact for q in [-10, 10], without gradient outside; the scores are of the unclamped logit."""
    q = torch.tensor([-12.0, -9.5, -3.6, 0.0, 9.5, 12.0], requires_grad=True)
    theirs, exact = (DropLoss(FREQUENCY, tail="rc", published=year).link for year in ("2024", None))
    for method in ("log_probability", "log_complement"):
        ours, slopes = getattr(theirs, method)(q), torch.autograd.grad(getattr(theirs, method)(q).sum(), q)[0]
        assert torch.equal(ours, getattr(exact, method)(q.clamp(-10, 10)))
        assert torch.equal(slopes[1:-1], torch.autograd.grad(getattr(exact, method)(q).sum(), q)[0][1:-1])
        assert slopes[[0, -1]].eq(0).all()
        assert torch.equal(getattr(theirs, f"{method}_slope")(q), slopes)
    assert torch.equal(theirs.probability(q), exact.probability(q))
    for config in (losses.EQLConfig, GumbelCEConfig, losses.ClassRelativeLossConfig):
        with pytest.raises(SettingError, match=rf"DropLoss alone, not {config.__name__[:-6]}: set 2022 or None"):
            config(published="2024")
    with pytest.raises(ValueError, match="NormalCDF has no form published in 2024"):
        DropLoss(FREQUENCY, link="normal", published="2024")
    with pytest.raises(SettingError, match=r"2024 has no normal link: .* --loss.link to gumbel or sigmoid"):
        losses.DropLossConfig(link="normal", published="2024")


@pytest.mark.parametrize("published", [True, "2021", 2024])
def test_an_unknown_version_is_refused(published):
    config = GumbelCEConfig()
    object.__setattr__(config, "published", published)  # the checks of types in the tests would refuse it first
    with pytest.raises(SettingError, match=r"loss.published is '?2022'?, '?2024'?, or None, got .*--loss.published"):
        config.__post_init__()


def test_a_loss_of_ones_own_need_not_set_whether_its_scores_are_exclusive():
    class Own(ConfiguredLoss):
        def forward(self, logits, labels):
            return {"loss_cls": logits.sum()}

        def scores(self, logits):
            return logits.sigmoid()

    assert not Own(4, BaseLossConfig(init_bias=-1.0)).scores_are_exclusive
    assert torch.equal(
        Own(FREQUENCY, BaseLossConfig(init_bias=-1.0), extra_logits=1).init_bias(), torch.full((5,), -1.0)
    )
    assert SoftmaxCE.scores_are_exclusive


def test_every_public_name_is_there():
    assert sorted(losses.__all__) == sorted(set(losses.__all__))
    for name in losses.__all__:
        assert getattr(losses, name) is not None
