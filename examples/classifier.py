"""A loss in a plain classifier with long-tailed classes, and how to save a loss that has state.

    python examples/classifier.py --loss seesaw

A loss is an `nn.Module`. It sets the number of logits and their initial bias. `loss(logits, labels)` returns named
terms; add them up. `loss.scores(logits)` returns the scores. Some losses count during training (Seesaw, EQLv2, LDAM).
Such a loss must be on the model's device, must be saved in the checkpoint, and must follow the model's `train()` and
`eval()`. All three happen if the loss is a submodule of the model, as here.

Without background no label is C, and a loss with a logit for background learns that background never occurs. GOL,
DropLoss and EQL are made for detection: rare classes get no negatives from other objects, and only background lowers
their scores. A plain classifier has no background, so use another loss there.
"""

import io

import torch
import tyro
from torch import Tensor, nn

from tailseg.losses import ClassificationLoss, build_loss
from tailseg.recipes.tiny import TINY_LOSSES
from tailseg.structures import ClassFrequency

LOSSES = {make.__name__.removeprefix("tiny_"): make().loss for make in TINY_LOSSES}
"""The settings of every loss, by name. In your own code: `build_loss(SeesawLossConfig(), frequency)`."""


class Classifier(nn.Module):
    """Two layers, and their loss."""

    def __init__(self, num_features: int, loss: ClassificationLoss) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, 64)
        self.classifier = nn.Linear(64, loss.num_logits)
        self.loss = loss
        nn.init.normal_(self.classifier.weight, std=0.01)
        with torch.no_grad():
            self.classifier.bias.copy_(loss.init_bias())

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor] | Tensor:
        """Returns the terms of the loss if there are labels, else the scores ``[R, C]``."""
        logits = self.classifier(self.hidden(x).relu())
        return self.loss.scores(logits) if labels is None else self.loss(logits, labels)


def draw(counts: list[int], generator: torch.Generator, *, num_features: int = 16) -> tuple[Tensor, Tensor]:
    """Draws features and labels of overlapping classes.

    Args:
        counts: examples of each class.
        generator: random generator of the examples; the class centers are always the same.
        num_features: length of a feature vector.

    Returns:
        Features ``[R, num_features]`` and labels ``[R]``.
    """
    centers = 1.2 * torch.randn(len(counts), num_features, generator=torch.Generator().manual_seed(1))
    labels = torch.repeat_interleave(torch.tensor(counts))
    return centers[labels] + torch.randn(len(labels), num_features, generator=generator), labels


def train(model: Classifier, optimizer: torch.optim.Optimizer, x: Tensor, labels: Tensor, *, steps: int) -> float:
    """Trains on random batches of 128 examples.

    Args:
        model: the classifier.
        optimizer: its optimizer.
        x: features, ``[R, num_features]``.
        labels: labels, ``[R]``.
        steps: number of steps.

    Returns:
        The loss of the last step.
    """
    model.train()
    value = torch.zeros(())
    for _ in range(steps):
        batch = torch.randint(len(x), (128,))
        value = sum(model(x[batch], labels[batch]).values(), torch.zeros(()))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        model.loss.step_taken()
    return value.item()


@torch.no_grad()
def compute_accuracy(model: Classifier, x: Tensor, labels: Tensor) -> Tensor:
    """Computes the share of correct examples of each class. An example is correct if its class has the best score.

    Args:
        model: the classifier.
        x: features, ``[R, num_features]``.
        labels: labels, ``[R]``.

    Returns:
        Accuracy in 0 .. 1, ``[C]``.
    """
    model.eval()
    correct = (model(x).argmax(1) == labels).float()
    num_classes = model.loss.num_classes
    return torch.zeros(num_classes).index_add_(0, labels, correct) / labels.bincount(minlength=num_classes)


def main(loss: str = "seesaw", steps: int = 600) -> None:
    """Train a classifier with a loss of tailseg, save it after half of the steps, and resume from the saved state.

    Args:
        loss: gumbel, sigmoid, softmax, gol, droploss, eql, class_relative, focal, eql_v2, seesaw, bags, federated,
            balanced_softmax, ecm or ldam.
        steps: number of training steps.
    """
    if loss not in LOSSES:
        raise SystemExit(f"no loss is called {loss!r}: there are {', '.join(LOSSES)}")
    torch.manual_seed(0)
    counts = [round(2000 * 0.5**j) for j in range(10)]  # 2,000 examples down to 4
    x, labels = draw(counts, torch.Generator().manual_seed(2))
    # Each example is an image with one object here.
    frequency = ClassFrequency.from_counts(torch.tensor(counts), torch.tensor(counts), num_images=len(labels))

    model = Classifier(x.shape[1], build_loss(LOSSES[loss], frequency))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    train(model, optimizer, x, labels, steps=steps // 2)
    file = io.BytesIO()  # or a path
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    state = {name: list(value.shape) for name, value in model.loss.state_dict().items()}
    print(f"saved half way; state of the loss: {state or 'none'}")

    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Classifier(x.shape[1], build_loss(LOSSES[loss], frequency))
    resumed.load_state_dict(saved["model"])
    optimizer = torch.optim.SGD(resumed.parameters(), lr=0.02, momentum=0.9)
    optimizer.load_state_dict(saved["optimizer"])
    print(f"last loss {train(resumed, optimizer, x, labels, steps=steps - steps // 2):.4f}")

    accuracy = compute_accuracy(resumed, *draw([200] * len(counts), torch.Generator().manual_seed(3)))
    for name, values in (("5 frequent", accuracy[:5]), ("5 rare", accuracy[5:])):
        print(f"accuracy of the {name} classes: {100 * values.mean():.1f} %")


if __name__ == "__main__":
    tyro.cli(main)
