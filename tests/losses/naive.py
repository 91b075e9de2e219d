"""The rivals' formulas as their papers write them: float64, one row after the other, exp and log as they stand.

Each is a function of logits ``[R, L]`` and labels, or a class with ``__call__`` where the loss has state, and shares no
code with the package. All want moderate logits.
"""

import torch

from tailseg.structures import ClassFrequency


def one_hot(label, length):
    y = torch.zeros(length, dtype=torch.float64)
    if label < length:
        y[label] = 1
    return y


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def softmax(x):
    return torch.exp(x) / torch.exp(x).sum()


class Focal:
    def __init__(self, frequency: ClassFrequency, gamma, alpha):
        self.gamma = gamma
        self.positive, self.negative = (1, 1) if alpha is None else (alpha, 1 - alpha)

    def __call__(self, q, labels):
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            p, y = sigmoid(row), one_hot(label, len(row))
            total -= (self.positive * y * (1 - p) ** self.gamma * torch.log(p)).sum()
            total -= (self.negative * (1 - y) * p**self.gamma * torch.log(1 - p)).sum()
        return total / len(q)


class EQLv2:
    def __init__(self, frequency: ClassFrequency, gamma, mu, alpha):
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.positive = [0.0] * frequency.num_classes
        self.negative = [0.0] * frequency.num_classes

    def __call__(self, q, labels):
        v = []
        for positive, negative in zip(self.positive, self.negative, strict=True):
            ratio = torch.tensor(positive / negative, dtype=torch.float64) if negative > 0 else torch.tensor(torch.inf)
            v.append(float(1 / (1 + torch.exp(-self.gamma * (ratio - self.mu)))))
        v = torch.tensor([*v, 1.0], dtype=torch.float64)
        u = 1 + self.alpha * (1 - v)
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            p, y = sigmoid(row), one_hot(label, len(row))
            weight = u * y + v * (1 - y)
            total -= (weight * (y * torch.log(p) + (1 - y) * torch.log(1 - p))).sum()
            gradient = ((p - y).abs() * weight).detach()
            self.positive = [s + g for s, g in zip(self.positive, (gradient * y).tolist()[:-1], strict=True)]
            self.negative = [s + g for s, g in zip(self.negative, (gradient * (1 - y)).tolist()[:-1], strict=True)]
        return total / len(q)


class Seesaw:
    def __init__(self, frequency: ClassFrequency, p, q, eps):
        self.p, self.q, self.eps = p, q, eps
        self.counts = torch.zeros(frequency.num_classes, dtype=torch.float64)

    def __call__(self, logits, labels):
        num_classes = len(self.counts)
        for label in labels.tolist():
            if label < num_classes:
                self.counts[label] += 1
        n = torch.where(self.counts < 1, 1.0, self.counts)
        total = 0
        for row, label in zip(logits, labels.tolist(), strict=True):
            background = int(label == num_classes)
            total -= torch.log(softmax(row[num_classes:])[background])
            if background:
                continue
            q = row[:num_classes]
            s = softmax(q).detach()
            mitigation = torch.where(n < n[label], (n / n[label]) ** self.p, 1.0)
            own = max(float(s[label]), self.eps)
            compensation = torch.where(s > own, (s / own) ** self.q, 1.0)
            push = mitigation * compensation * torch.exp(q)
            others = torch.cat([push[:label], push[label + 1 :]]).sum()
            total -= torch.log(torch.exp(q[label]) / (others + torch.exp(q[label])))
        return total / len(logits)


class BAGS:
    """With every region in every group that has any of its own."""

    def __init__(self, frequency: ClassFrequency, edges):
        groups = {}
        for label, count in enumerate(frequency.instance_counts.tolist()):
            groups.setdefault(sum(count >= edge for edge in edges), []).append(label)
        self.groups = [groups[key] for key in sorted(groups)]
        self.num_classes = frequency.num_classes

    def __call__(self, q, labels):
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            total -= torch.log(softmax(row[-2:])[int(label == self.num_classes)])
        for g, classes in enumerate(self.groups):
            if not set(labels.tolist()) & set(classes):
                continue
            for row, label in zip(q, labels.tolist(), strict=True):
                p = softmax(row[[*classes, self.num_classes + g]])
                total -= torch.log(p[classes.index(label) if label in classes else len(classes)])
        return total / len(q)


class Federated:
    """With every class that has images, or is among the labels."""

    def __init__(self, frequency: ClassFrequency):
        self.seen = {label for label, count in enumerate(frequency.image_counts.tolist()) if count > 0}

    def __call__(self, q, labels):
        asked = self.seen | set(labels.tolist())
        chosen = torch.tensor([float(j in asked) for j in range(q.shape[1])])
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            p, y = sigmoid(row), one_hot(label, len(row))
            total -= (chosen * (y * torch.log(p) + (1 - y) * torch.log(1 - p))).sum()
        return total / len(q)


class LogitAdjusted:
    """By counts, as balanced softmax is written; background has the mean count."""

    def __init__(self, frequency: ClassFrequency, tau):
        n = frequency.instance_counts.double()
        self.prior = torch.cat([n, n.mean()[None]]) ** tau

    def __call__(self, q, labels):
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            weighted = self.prior * torch.exp(row)
            total -= torch.log(weighted[label] / weighted.sum())
        return total / len(q)


class ECM:
    def __init__(self, frequency: ClassFrequency, background_ratio):
        n = frequency.image_counts.double()
        n = torch.cat([n, (background_ratio * n.sum())[None]])
        rest = n.sum() - n
        self.positive = (n**0.25 + rest**0.25) / rest**0.25
        self.negative = (n**0.25 + rest**0.25) / n**0.25
        a = rest / n
        self.weight = a * torch.log((1 + a) / a)

    def __call__(self, q, labels):
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            yes, no = self.positive * torch.exp(row), self.negative * torch.exp(-row)
            y = one_hot(label, len(row))
            total -= (self.weight * (y * torch.log(yes / (yes + no)) + (1 - y) * torch.log(no / (yes + no)))).sum()
        return total / len(q)


class LDAM:
    def __init__(self, frequency: ClassFrequency, max_margin, scale, reweight_after, beta):
        n = frequency.instance_counts.double()
        margin = 1 / n.sqrt().sqrt()
        self.margin = [*(margin * max_margin / margin.max()).tolist(), 0.0]
        effective = (1 - beta**n) / (1 - beta)
        self.class_weight = [*(len(n) / effective / (1 / effective).sum()).tolist(), 1.0]
        self.scale, self.reweight_after, self.calls = scale, reweight_after, 0

    def __call__(self, q, labels):
        weighs = self.reweight_after is not None and self.calls >= self.reweight_after
        self.calls += 1
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            z = torch.stack([row[j] - self.margin[j] if j == label else row[j] for j in range(len(row))])
            cost = -torch.log(softmax(self.scale * z)[label])
            total = total + (self.class_weight[label] if weighs else 1) * cost
        return total / len(q)
