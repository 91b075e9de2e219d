"""The losses' formulas as their papers write them: float64, one row after the other, in logarithms.

Each is a class of a data set's frequencies and its settings. A call takes logits ``[R, L]`` and labels, and keeps
state where the loss has one; ``scores`` are those of testing. Nothing here is shared with the package. Logarithms are
of whole probabilities (log p, log(1 - p)), so that logits far from 0 keep their digits.

n_j and N_j, a class's objects and images, count as 1 at least.
"""

import math

import torch

from tailseg.structures import ClassFrequency


def one_hot(label, length):
    y = torch.zeros(length, dtype=torch.float64)
    if label < length:
        y[label] = 1
    return y


def log_sigmoid(x):
    return -torch.logaddexp(torch.zeros_like(x), -x)


def log_softmax(x):
    return x - torch.logsumexp(x, 0)


def mean_over(q, total):
    """Divided by R; 0 with a gradient for no regions."""
    return (total + 0 * q.sum()) / max(len(q), 1)


def log_gumbel(q):
    """The logarithms of p = exp(-exp(-q)) and 1 - p; log p goes on along its tangent below -11."""
    t = torch.exp(-q)
    p = torch.where(q >= -11, -t, -math.exp(11) * (1 - 11 - q))
    few, many = t.clamp(max=0.6), t.clamp(min=0.6)
    return p, torch.where(t < 0.6, torch.log(-torch.expm1(-few)), torch.log1p(-torch.exp(-many)))


LINKS = {
    "gumbel": log_gumbel,
    "sigmoid": lambda q: (log_sigmoid(q), log_sigmoid(-q)),
    "normal": lambda q: (torch.special.log_ndtr(q), torch.special.log_ndtr(-q)),
}


class Binary:
    """Yes or no to every logit; background is a question of its own where it has a logit."""

    def __init__(self, frequency: ClassFrequency, link="sigmoid"):
        self.num_classes = frequency.num_classes
        self.links = [link] * (self.num_classes + 1)

    def logs(self, q):
        """The logarithms of p and 1 - p, ``[R, L]`` each."""
        both = [LINKS[link](column) for link, column in zip(self.links, q.T, strict=False)]
        return [torch.stack([pair[i] for pair in both], 1) for i in (0, 1)]

    def weights(self, labels):
        """By region and logit, on negatives alone."""
        return torch.ones(len(labels), 1, dtype=torch.float64)

    def __call__(self, q, labels):
        yes, no = self.logs(q)
        y = torch.stack([one_hot(label, q.shape[1]) for label in labels.tolist()]) if len(q) else torch.zeros_like(q)
        return mean_over(q, -(y * yes + self.weights(labels) * (1 - y) * no).sum())

    def scores(self, q):
        return torch.exp(self.logs(q)[0])[:, : self.num_classes]


class ClassRelative(Binary):
    def __init__(self, frequency: ClassFrequency, frequent_above):
        super().__init__(frequency)
        self.links = ["normal" if n > frequent_above else "gumbel" for n in frequency.image_counts.tolist()]
        self.links.append("gumbel")


class SparesTail(Binary):
    """EQL: objects ask nothing of the tail but their own class.

    DropLoss: background neither, where U > r, the share of the objects that are of the tail; ``uniform`` is U,
    ``[R, C]``, of which background rows alone are read.
    """

    def __init__(self, frequency: ClassFrequency, tail, link, uniform=None):
        super().__init__(frequency, link)
        images = frequency.image_counts.tolist()
        if isinstance(tail, str):
            most = {"r": 10, "rc": 100}[tail]
            self.tail = [n <= most for n in images]
        else:
            self.tail = [n / frequency.num_images < tail for n in images]
        self.uniform = uniform

    def weights(self, labels):
        objects = [label for label in labels.tolist() if label < self.num_classes]
        r = sum(self.tail[label] for label in objects) / len(objects) if objects else 1
        weights = torch.ones(len(labels), self.num_classes, dtype=torch.float64)
        for i, label in enumerate(labels.tolist()):
            for j in range(self.num_classes):
                if label < self.num_classes:
                    dropped = self.tail[j]
                else:
                    dropped = self.uniform is not None and self.tail[j] and bool(self.uniform[i, j] > r)
                weights[i, j] = 1 - dropped
        return weights


class Softmax:
    def __init__(self, frequency: ClassFrequency, scale=1.0):
        self.scale = scale

    def __call__(self, q, labels):
        return mean_over(q, -sum(log_softmax(row)[label] for row, label in zip(q, labels.tolist(), strict=True)))

    def scores(self, q):
        return torch.stack([torch.exp(log_softmax(self.scale * row))[:-1] for row in q])


def with_objectness(q):
    """sigmoid(q_j) (1 - sigmoid(q_background))."""
    return torch.exp(log_sigmoid(q[:, :-1]) + log_sigmoid(-q[:, -1:]))


class Focal:
    def __init__(self, frequency: ClassFrequency, gamma, alpha, link="sigmoid"):
        self.gamma, self.logs = gamma, LINKS[link]
        self.positive, self.negative = (1, 1) if alpha is None else (alpha, 1 - alpha)

    def __call__(self, q, labels):
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            (yes, no), y = self.logs(row), one_hot(label, len(row))
            total -= (self.positive * y * torch.exp(self.gamma * no) * yes).sum()
            total -= (self.negative * (1 - y) * torch.exp(self.gamma * yes) * no).sum()
        return mean_over(q, total)

    def scores(self, q):
        return torch.exp(self.logs(q)[0])


class EqualizedFocal(Focal):
    """The gradients that it collects are autograd's."""

    def __init__(self, frequency: ClassFrequency, gamma, alpha, scale, link="sigmoid"):
        super().__init__(frequency, gamma, alpha, link)
        self.base, self.scale = gamma, scale
        self.sums = torch.zeros(2, frequency.num_classes, dtype=torch.float64)

    def __call__(self, q, labels):
        positive, negative = self.sums
        balance = torch.where(negative > 0, torch.clamp(positive / negative, max=1), 1.0)
        self.gamma = self.base + self.scale * (1 - balance)
        shares = (self.positive, self.negative)
        self.positive, self.negative = (share * self.gamma / self.base for share in shares)
        leaf = q.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(super().__call__(leaf, labels), leaf)
        loss = super().__call__(q, labels)
        self.positive, self.negative = shares
        for row, label in zip(gradient.abs(), labels.tolist(), strict=True):
            y = one_hot(label, len(row))
            self.sums += torch.stack([row * y, row * (1 - y)])
        return loss


class Varifocal(Focal):
    """With targets of 0 and 1, as through regions."""

    def __init__(self, frequency: ClassFrequency, gamma, alpha, link="sigmoid"):
        super().__init__(frequency, gamma, None, link)
        self.negative = alpha

    def __call__(self, q, labels):
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            (yes, no), y = self.logs(row), one_hot(label, len(row))
            total -= (y * yes + self.negative * (1 - y) * torch.exp(self.gamma * yes) * no).sum()
        return mean_over(q, total)


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
            y = one_hot(label, len(row))
            weight = u * y + v * (1 - y)
            total -= (weight * (y * log_sigmoid(row) + (1 - y) * log_sigmoid(-row))).sum()
            # |p - y|: 1 - p where the answer is yes
            gradient = (torch.exp(torch.where(y == 1, log_sigmoid(-row), log_sigmoid(row))) * weight).detach()
            self.positive = [s + g for s, g in zip(self.positive, (gradient * y).tolist()[:-1], strict=True)]
            self.negative = [s + g for s, g in zip(self.negative, (gradient * (1 - y)).tolist()[:-1], strict=True)]
        return mean_over(q, total)

    def scores(self, q):
        return with_objectness(q)


class Seesaw:
    def __init__(self, frequency: ClassFrequency, p, q, eps):
        self.p, self.q, self.eps = p, q, eps
        self.counts = torch.zeros(frequency.num_classes, dtype=torch.float64)

    def __call__(self, logits, labels):
        num_classes = len(self.counts)
        for label in labels.tolist():
            if label < num_classes:
                self.counts[label] += 1
        total = 0
        for row, label in zip(logits, labels.tolist(), strict=True):
            background = int(label == num_classes)
            total -= log_softmax(row[num_classes:])[background]
            if background:
                continue
            q = row[:num_classes]
            total += torch.logsumexp(self.push(q, label), 0) - q[label]
        return mean_over(logits, total)

    def push(self, q, label):
        """The logits after both factors."""
        n = torch.where(self.counts < 1, 1.0, self.counts)
        s = torch.exp(log_softmax(q)).detach()
        mitigation = torch.where(n < n[label], (n / n[label]) ** self.p, 1.0)
        own = max(float(s[label]), self.eps)
        compensation = torch.where(s > own, (s / own) ** self.q, 1.0)
        push = torch.log(mitigation * compensation) + q
        return torch.cat([push[:label], q[label][None], push[label + 1 :]])

    def scores(self, q):
        return torch.stack([torch.exp(log_softmax(row[:-2]) + log_softmax(row[-2:])[0]) for row in q])


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
            total -= log_softmax(row[-2:])[int(label == self.num_classes)]
        for g, classes in enumerate(self.groups):
            if not set(labels.tolist()) & set(classes):
                continue
            for row, label in zip(q, labels.tolist(), strict=True):
                p = log_softmax(row[[*classes, self.num_classes + g]])
                total -= p[classes.index(label) if label in classes else len(classes)]
        return mean_over(q, total)

    def scores(self, q):
        found = torch.zeros(len(q), self.num_classes, dtype=q.dtype)
        for i, row in enumerate(q):
            for g, classes in enumerate(self.groups):
                within = log_softmax(row[[*classes, self.num_classes + g]])[:-1]
                found[i, classes] = torch.exp(within + log_softmax(row[-2:])[0])
        return found


class Federated:
    """With every class that has images, or is among the labels."""

    def __init__(self, frequency: ClassFrequency):
        self.seen = {label for label, count in enumerate(frequency.image_counts.tolist()) if count > 0}

    def __call__(self, q, labels):
        asked = self.seen | set(labels.tolist())
        chosen = torch.tensor([float(j in asked) for j in range(q.shape[1])])
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            y = one_hot(label, len(row))
            total -= (chosen * (y * log_sigmoid(row) + (1 - y) * log_sigmoid(-row))).sum()
        return mean_over(q, total)

    def scores(self, q):
        return torch.exp(log_sigmoid(q))


class LogitAdjusted(Softmax):
    """By counts, as balanced softmax is written; background has the mean count."""

    def __init__(self, frequency: ClassFrequency, tau):
        super().__init__(frequency)
        n = frequency.instance_counts.clamp(min=1).double()
        self.prior = torch.cat([n, n.mean()[None]]) ** tau

    def __call__(self, q, labels):
        return super().__call__(torch.log(self.prior) + q, labels)


class ECM:
    def __init__(self, frequency: ClassFrequency, background_ratio):
        n = frequency.image_counts.clamp(min=1).double()
        n = torch.cat([n, (background_ratio * n.sum())[None]])
        rest = n.sum() - n
        self.positive = (n**0.25 + rest**0.25) / rest**0.25
        self.negative = (n**0.25 + rest**0.25) / n**0.25
        a = rest / n
        self.weight = a * torch.log((1 + a) / a)

    def __call__(self, q, labels):
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            yes, no = torch.log(self.positive) + row, torch.log(self.negative) - row
            both = torch.logaddexp(yes, no)
            y = one_hot(label, len(row))
            total -= (self.weight * (y * (yes - both) + (1 - y) * (no - both))).sum()
        return mean_over(q, total)

    def scores(self, q):
        return with_objectness(q)


class LDAM(Softmax):
    def __init__(self, frequency: ClassFrequency, max_margin, scale, reweight_after, beta):
        super().__init__(frequency, scale)
        n = frequency.instance_counts.clamp(min=1).double()
        margin = 1 / n.sqrt().sqrt()
        self.margin = [*(margin * max_margin / margin.max()).tolist(), 0.0]
        effective = (1 - beta**n) / (1 - beta)
        self.class_weight = [*(len(n) / effective / (1 / effective).sum()).tolist(), 1.0]
        self.reweight_after, self.calls = reweight_after, 0

    def __call__(self, q, labels):
        weighs = self.reweight_after is not None and self.calls >= self.reweight_after
        self.calls += 1
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            z = torch.stack([row[j] - self.margin[j] if j == label else row[j] for j in range(len(row))])
            cost = -log_softmax(self.scale * z)[label]
            total = total + (self.class_weight[label] if weighs else 1) * cost
        return mean_over(q, total)


class PCB:
    """As the public code computes it, without the entropy of the soft target; ``seesaw`` is a `Seesaw` or None."""

    def __init__(self, frequency: ClassFrequency, alpha, momentum, start_after, seesaw=None):
        self.num_classes = frequency.num_classes
        self.alpha, self.momentum, self.start_after, self.seesaw = alpha, momentum, start_after, seesaw
        self.rows = [None] * self.num_classes
        self.calls = 0

    def update(self, q, labels):
        for label in set(labels.tolist()) - {self.num_classes}:
            seen = [row for row, other in zip(q, labels.tolist(), strict=True) if other == label]
            mean = sum(torch.exp(log_softmax(row[: self.num_classes].detach())) for row in seen) / len(seen)
            old = torch.zeros_like(mean) if self.rows[label] is None else self.rows[label]
            mixed = self.momentum * old + (1 - self.momentum) * mean
            self.rows[label] = mixed / mixed.sum()

    def soften(self, label):
        column = torch.stack([torch.tensor(0.0) if row is None else row[label] for row in self.rows]).double()
        return column / column.sum()

    def __call__(self, q, labels):
        self.update(q, labels)
        alpha = self.alpha if self.calls >= self.start_after else 0.0
        self.calls += 1
        if self.seesaw is not None:
            hard, total = self.seesaw(q, labels) * len(q), 0
            for row, label in zip(q, labels.tolist(), strict=True):
                if label < self.num_classes:
                    push = self.seesaw.push(row[: self.num_classes], label)
                    p = log_softmax(push)
                    total += alpha * (p[label] - (self.soften(label) * p).sum())
            return mean_over(q, hard + total)
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            p = log_softmax(row)
            if label == self.num_classes:
                total -= p[label]
            else:
                total -= (1 - alpha) * p[label] + alpha * (self.soften(label) * p[:-1]).sum()
        return mean_over(q, total)

    def scores(self, q):
        if self.seesaw is not None:
            return self.seesaw.scores(q)
        return torch.stack([torch.exp(log_softmax(row))[:-1] for row in q])


class Equilibrium(Softmax):
    def __init__(self, frequency: ClassFrequency, momentum, first_score, background_score):
        super().__init__(frequency)
        self.momentum = momentum
        self.mean = [first_score] * frequency.num_classes + [background_score]

    def __call__(self, q, labels):
        for label in set(labels.tolist()) - {len(self.mean) - 1}:
            own = [
                float(torch.exp(log_softmax(row.detach())[label]))
                for row, other in zip(q, labels.tolist(), strict=True)
                if other == label
            ]
            self.mean[label] = self.momentum * self.mean[label] + (1 - self.momentum) * sum(own) / len(own)
        total = 0
        for row, label in zip(q, labels.tolist(), strict=True):
            total -= log_softmax(row + torch.tensor(self.mean, dtype=torch.float64).log())[label]
        return mean_over(q, total)


def rank_regions(q, labels, weights, delta):
    """ROG's value and gradient without strength, pair by pair; ``weights`` are w of the classes."""
    num_classes = len(weights)
    gradient = torch.zeros_like(q)
    value = 0.0
    places = [(i, label) for i, label in enumerate(labels.tolist()) if label < num_classes]
    classes = {label for _, label in places}
    for i, label in places:
        own = float(q[i, label])
        peers = [float(q[k, label]) for k, other in places if other == label]
        relation = [min(max((peer - own) / (2 * delta) + 0.5, 0), 1) for peer in peers]
        above = []
        for row in range(len(q)):
            for j in range(num_classes):
                if (row, j) not in places:
                    h = min(max((float(q[row, j]) - own) / (2 * delta) + 0.5, 0), 1)
                    if h:
                        above.append((row, j, h))
        false = sum(h for _, _, h in above)
        share = weights[label] / (len(peers) * len(classes) * (sum(relation) + false))
        value += share * false
        gradient[i, label] -= share * false
        for row, j, h in above:
            gradient[row, j] += share * h
    return value, gradient
