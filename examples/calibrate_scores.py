"""Calibration after training: changes the scores by class, from the counts of the training set, without training.

    python examples/calibrate_scores.py

A softmax and Gumbel's loss classify regions of 10 long-tailed classes and background. The strength gamma of NorCal is
chosen on held-out regions, as its authors recommend. In a detector, calibrate all scores of a region before the best
detections of an image are selected. After the selection, the order within a class hardly changes.
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
    """Draws features and labels of regions: ``counts[j]`` of class j, and background, the last label, spread widely.

    Args:
        counts: regions of each class, ``[C]``.
        background: regions of background.
        seed: seed of the regions; the class centers are the same for every seed.
        num_features: length of a feature vector.

    Returns:
        Features ``[R, num_features]`` and labels ``[R]`` in ``0 .. C``.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = 1.2 * torch.randn(len(counts), num_features, generator=torch.Generator().manual_seed(1))
    labels = torch.repeat_interleave(torch.cat([counts, torch.tensor([background])]))
    noise = torch.randn(len(labels), num_features, generator=generator)
    objects = torch.cat([centers, torch.zeros(1, num_features)])[labels] + noise
    return torch.where((labels == len(counts)).unsqueeze(1), 1.5 * noise, objects), labels


def train(loss: ClassificationLoss, x: Tensor, labels: Tensor, *, steps: int) -> nn.Module:
    """Trains a small network with the loss.

    Args:
        loss: the loss; it sets the number of logits and the initial bias.
        x: features, ``[R, num_features]``.
        labels: labels in ``0 .. C``, ``[R]``.
        steps: steps of SGD with 128 regions each.

    Returns:
        The network from features to logits.
    """
    torch.manual_seed(0)
    classifier = nn.Linear(64, loss.num_logits)
    nn.init.normal_(classifier.weight, std=0.01)
    with torch.no_grad():
        classifier.bias.copy_(loss.init_bias())
    model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), classifier)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        loss(model(x[batch]), labels[batch])["loss_cls"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    return model


def compute_average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """AP of each class, ``[C]``. A region counts only with its best class, as after non-maximum suppression."""
    score, label = scores.max(1)
    precisions = []
    for j in range(scores.shape[1]):
        ranked = (labels[label == j] == j)[score[label == j].argsort(descending=True)].float()
        precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
        precisions.append((precision * ranked).sum() / (labels == j).sum())
    return torch.stack(precisions)


def main(steps: int = 600) -> None:
    """Calibrates a softmax and a Gumbel classifier, and prints the effect on frequent and rare classes."""
    x, labels = draw(COUNTS, BACKGROUND, seed=2)
    held_out, test = (draw(torch.full((10,), 100), BACKGROUND, seed=seed) for seed in (3, 4))
    for loss, adjust in ((SoftmaxCE(10), adjust_scores), (GumbelCE(10), adjust_binary_scores)):
        model = train(loss, x, labels, steps=steps)
        with torch.no_grad():
            held_out_scores, test_scores = loss.scores(model(held_out[0])), loss.scores(model(test[0]))

        def evaluate(gamma: float, scores: Tensor, labels: Tensor, adjust=adjust) -> Tensor:
            return compute_average_precision(adjust(scores, norcal_offsets(COUNTS, gamma=gamma)), labels)

        gamma = max(GAMMAS, key=lambda gamma: evaluate(gamma, held_out_scores, held_out[1]).mean().item())
        print(f"{type(loss).__name__}: gamma {gamma}, chosen on held-out regions")
        for title, strength in (("as trained", 0.0), ("calibrated", gamma)):
            ap = 100 * evaluate(strength, test_scores, test[1])
            print(f"  {title}: AP of the 5 frequent classes {ap[:5].mean():.1f}, of the 5 rare {ap[5:].mean():.1f}")


if __name__ == "__main__":
    tyro.cli(main)
