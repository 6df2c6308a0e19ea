"""The losses of the family once more: float64, plain loops, no code of the package."""

import math

import numpy as np


def unit(row: np.ndarray) -> np.ndarray:
    return row / max(math.sqrt(float(row @ row)), 1e-6)


def log_sum(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def barlow_twins(z: np.ndarray, weight: float) -> float:
    count, _, width = z.shape
    standardised = [(view - view.mean(axis=0)) / np.sqrt(view.var(axis=0) + 1e-5) for view in (z[:, 0], z[:, 1])]
    total = 0.0
    for i in range(width):
        for j in range(width):
            c = sum(standardised[0][b, i] * standardised[1][b, j] for b in range(count)) / count
            total += (c - 1) ** 2 if i == j else weight * c**2
    return float(total)


def vicreg(z: np.ndarray, weights: tuple[float, float, float]) -> float:
    count, _, width = z.shape
    invariance = sum((z[b, 0, i] - z[b, 1, i]) ** 2 for b in range(count) for i in range(width)) / (count * width)
    variance = covariance = 0.0
    for view in range(2):
        x = z[:, view] - z[:, view].mean(axis=0)
        for i in range(width):
            for j in range(width):
                c = float(x[:, i] @ x[:, j]) / (count - 1)
                if i == j:
                    variance += max(0.0, 1 - math.sqrt(c + 1e-4)) / width / 2
                else:
                    covariance += c**2 / width
    return float(weights[0] * invariance + weights[1] * variance + weights[2] * covariance)


def sup_con(z: np.ndarray, labels: list[int], *, temperature: float, base_temperature: float) -> float:
    rows = [(b, unit(z[b, v])) for b in range(z.shape[0]) for v in range(z.shape[1])]
    total = 0.0
    for a, (image, anchor) in enumerate(rows):
        logits = {p: float(anchor @ row) / temperature for p, (_, row) in enumerate(rows) if p != a}
        positives = [
            p for p in logits if rows[p][0] == image or (labels[image] >= 0 and labels[rows[p][0]] == labels[image])
        ]
        if positives:
            total -= sum(logits[p] - log_sum(list(logits.values())) for p in positives) / len(positives)
    return temperature / base_temperature * total / len(rows)


def dcl(z: np.ndarray, *, temperature: float, weights: np.ndarray | None = None) -> float:
    count, total = len(z), 0.0
    u = [[unit(row) for row in image] for image in z]
    for a in range(2):
        for i in range(count):
            negatives = [float(u[i][a] @ u[j][v]) / temperature for j in range(count) if j != i for v in range(2)]
            weight = 1.0 if weights is None else weights[i]
            total += log_sum(negatives) - weight * float(u[i][0] @ u[i][1]) / temperature
    return total / (2 * count)


def dclw_weights(z: np.ndarray, sigma: float) -> np.ndarray:
    exponentials = np.exp([float(unit(image[0]) @ unit(image[1])) / sigma for image in z])
    return 2 - len(z) * exponentials / exponentials.sum()


def cross_entropy(rows: np.ndarray, columns: np.ndarray, positives: list[int]) -> float:
    """Of choosing among the columns [M, d] by dot products with the rows [N, d], which have their scale already."""
    logits = [[float(row @ column) for column in columns] for row in rows]
    return sum(log_sum(own) - own[p] for own, p in zip(logits, positives, strict=True)) / len(rows)


def info_nce(anchors: np.ndarray, candidates: np.ndarray, positives: list[int], temperature: float) -> float:
    columns = np.array([unit(row) for row in candidates])
    return cross_entropy(np.array([unit(row) for row in anchors]) / temperature, columns, positives)


def cpc_grid(predictions: np.ndarray, targets: np.ndarray, *, step: int, scale: float) -> float:
    images, height, width, _ = targets.shape
    cells = [(b, r, c) for b in range(images) for r in range(height) for c in range(width)]
    predicting = [cell for cell in cells if cell[1] + step + 1 < height]
    rows = np.array([scale * predictions[cell] for cell in predicting])
    positives = [cells.index((b, r + step + 1, c)) for b, r, c in predicting]
    return cross_entropy(rows, np.array([targets[cell] for cell in cells]), positives)


def clip(image: np.ndarray, text: np.ndarray, log_scale: np.ndarray) -> float:
    own, temperature = list(range(len(image))), math.exp(-float(log_scale))
    return (info_nce(image, text, own, temperature) + info_nce(text, image, own, temperature)) / 2


def siglip(image: np.ndarray, text: np.ndarray, log_scale: np.ndarray, bias: np.ndarray) -> float:
    total = 0.0
    for i, row in enumerate(image):
        for j, column in enumerate(text):
            logit = math.exp(float(log_scale)) * float(unit(row) @ unit(column)) + float(bias)
            total += math.log1p(math.exp(-logit if i == j else logit))
    return total / len(image)


def pirl_nce(rows: np.ndarray, memory: np.ndarray, index: np.ndarray, *, partition: float, temperature: float) -> float:
    noise, total = (index.shape[1] - 1) / len(memory), 0.0
    for row, places in zip(rows, index, strict=True):
        p = [math.exp(float(unit(row) @ memory[place]) / temperature) / partition for place in places]
        total -= math.log(p[0] / (p[0] + noise + 2**-23))
        total -= sum(math.log(noise / (q + noise + 2**-23)) for q in p[1:])
    return total / len(rows)


def sinkhorn(scores: np.ndarray, *, epsilon: float, iterations: int) -> np.ndarray:
    q = np.exp(np.asarray(scores, np.longdouble) / epsilon)
    q = q / q.sum() * len(q)
    for _ in range(iterations):
        for k in range(q.shape[1]):
            q[:, k] = q[:, k] / q[:, k].sum()
        for i in range(len(q)):
            q[i] = q[i] / q[i].sum()
    return q.astype(np.float64)


def swav(scores: np.ndarray, assigned: np.ndarray, *, temperature: float) -> float:
    """For assignments [B, 2, K]."""
    images, crops, prototypes = scores.shape
    total = 0.0
    for i in range(images):
        for a in range(2):
            for v in range(crops):
                logits = [float(s) / temperature for s in scores[i, v]]
                if v != a:
                    total -= sum(assigned[i, a, k] * (logits[k] - log_sum(logits)) for k in range(prototypes))
    return total / (images * 2 * (crops - 1))
