"""Calibration after training: scores moved by class, from the counts of the training set; nothing is trained.

    python examples/calibrate_scores.py

Regions of 10 long-tailed classes and background are classified by a softmax and by Gumbel's loss. The strength gamma of
NorCal is chosen on held-out regions, as its authors ask. In a detector, calibrate all scores of a region before the
best detections of an image are taken: afterwards within a class hardly anything changes its place.
"""

import torch
import tyro
from torch import Tensor, nn

from tailseg.detection.calibration import adjust_binary_scores, adjust_scores, norcal_offsets
from tailseg.losses import ClassificationLoss, GumbelCE, SoftmaxCE

COUNTS = torch.tensor([round(2000 * 0.5**j) for j in range(10)])  # 2,000 regions down to 4
BACKGROUND = 4000
GAMMAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def draw(counts: Tensor, background: int, *, seed: int, num_features: int = 16) -> tuple[Tensor, Tensor]:
    """Features and labels of regions: ``counts[j]`` of class j, and background, the last label, all over the place."""
    generator = torch.Generator().manual_seed(seed)
    centers = 1.2 * torch.randn(len(counts), num_features, generator=torch.Generator().manual_seed(1))
    labels = torch.repeat_interleave(torch.cat([counts, torch.tensor([background])]))
    noise = torch.randn(len(labels), num_features, generator=generator)
    objects = torch.cat([centers, torch.zeros(1, num_features)])[labels] + noise
    return torch.where((labels == len(counts)).unsqueeze(1), 1.5 * noise, objects), labels


def train(loss: ClassificationLoss, x: Tensor, labels: Tensor, *, steps: int) -> nn.Module:
    """A small network under the loss; returns what makes logits."""
    torch.manual_seed(0)
    classifier = nn.Linear(64, loss.num_logits)
    nn.init.normal_(classifier.weight, std=0.01)
    with torch.no_grad():
        classifier.bias.copy_(loss.init_bias())
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), classifier)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        chosen = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        loss(model(x[chosen]), labels[chosen])["loss_cls"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    return model


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """AP of each class, ``[C]``: regions take part with their best class alone, as after non-maximum suppression."""
    score, label = scores.max(1)
    points = []
    for j in range(scores.shape[1]):
        ranked = (labels[label == j] == j)[score[label == j].argsort(descending=True)].float()
        precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
        points.append((precision * ranked).sum() / (labels == j).sum())
    return torch.stack(points)


def main(steps: int = 600) -> None:
    """Calibrate a softmax and a Gumbel classifier, and say what it did to frequent and rare classes."""
    x, labels = draw(COUNTS, BACKGROUND, seed=2)
    held_out, test = (draw(torch.full((10,), 100), BACKGROUND, seed=seed) for seed in (3, 4))
    for loss, adjust in ((SoftmaxCE(10), adjust_scores), (GumbelCE(10), adjust_binary_scores)):
        model = train(loss, x, labels, steps=steps)
        with torch.no_grad():
            held_out_scores, test_scores = loss.scores(model(held_out[0])), loss.scores(model(test[0]))

        def quality(gamma: float, scores: Tensor, labels: Tensor, adjust=adjust) -> Tensor:
            return average_precision(adjust(scores, norcal_offsets(COUNTS, gamma=gamma)), labels)

        gamma = max(GAMMAS, key=lambda gamma: quality(gamma, held_out_scores, held_out[1]).mean().item())
        print(f"{type(loss).__name__}: gamma {gamma}, chosen on held-out regions")
        for title, strength in (("as trained", 0.0), ("calibrated", gamma)):
            found = 100 * quality(strength, test_scores, test[1])
            print(
                f"  {title}: AP of the 5 frequent classes {found[:5].mean():.1f}, of the 5 rare {found[5:].mean():.1f}"
            )


if __name__ == "__main__":
    tyro.cli(main)
