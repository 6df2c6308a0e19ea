"""Slow, plain float64 restatements that share no code with the package, and the weights of the golden networks."""

import math
import re
import zlib

import jax
import numpy as np

_BATCH_NORM = re.compile(r".*bn\d*$")
_CANONICAL_LEAVES = {"scale": "gamma", "bias": "beta"}


def canonical_name(path: tuple) -> str:
    """Golden name of a leaf, from its path in {"params"/"batch_stats": {...}}: no collection, no "encoder"."""
    names = [jax.tree_util.keystr((entry,), simple=True) for entry in path]
    names = [name for name in names if name not in ("params", "batch_stats", "encoder")]
    if len(names) > 1 and _BATCH_NORM.match(names[-2]):
        names[-1] = _CANONICAL_LEAVES.get(names[-1], names[-1])
    return "/".join(names)


def golden_value(name: str, shape: tuple[int, ...], *, salt: int = 0) -> np.ndarray:
    """The float64 value of the golden variable `name`; the rule is in the golden files' README."""
    draws = np.random.default_rng([salt, zlib.crc32(name.encode("ascii"))]).random(math.prod(shape)) - 0.5
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "kernel":
        draws = draws * np.sqrt(12 / math.prod(shape[:-1]))
    elif leaf == "gamma":
        draws = 1 + 0.4 * draws
    elif leaf == "var":
        draws = 1 + 0.8 * draws
    else:
        assert leaf in ("beta", "bias", "mean"), name
        draws = 0.4 * draws
    return draws.reshape(shape)


def golden_variables(shapes, *, prefix: str = "", salt: int = 0, dtype=np.float32):
    """Golden weights for a tree of shapes (of jax.eval_shape), whose paths are canonical names after `prefix`."""
    return jax.tree.map_with_path(
        lambda path, leaf: golden_value(prefix + canonical_name(path), leaf.shape, salt=salt).astype(dtype), shapes
    )


def named_leaves(tree, *, prefix: str = "") -> dict[str, np.ndarray]:
    """The leaves of a tree of variables by canonical name."""
    return {prefix + canonical_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def nt_xent(z: np.ndarray, *, temperature: float, normalize: bool = True) -> float:
    """NT-Xent of z [B, 2, d], anchor by anchor as equation 1 of the paper is written."""
    z = np.asarray(z, np.float64)
    batch_size = z.shape[0]
    rows = {(i, v): z[i, v] for i in range(batch_size) for v in range(2)}
    if normalize:
        rows = {key: row / max(math.sqrt(float(row @ row)), 1e-6) for key, row in rows.items()}
    total = 0.0
    for (i, v), anchor in rows.items():
        logits = {key: float(anchor @ row) / temperature for key, row in rows.items() if key != (i, v)}
        top = max(logits.values())
        total += top + math.log(sum(math.exp(value - top) for value in logits.values())) - logits[i, 1 - v]
    return total / (2 * batch_size)


def lars_step(weight, gradient, velocity, *, learning_rate, weight_decay, adapted, momentum=0.9, nesterov=False):
    """One LARS update of one float64 tensor: (weight, velocity). `weight_decay` is 0 for excluded tensors."""
    gradient = gradient + weight_decay * weight
    weight_norm, gradient_norm = (math.sqrt(sum(float(x) ** 2 for x in t.ravel())) for t in (weight, gradient))
    ratio = 0.001 * weight_norm / gradient_norm if adapted and weight_norm > 0 and gradient_norm > 0 else 1.0
    step = learning_rate * ratio * gradient
    velocity = momentum * velocity + step
    return weight - (momentum * velocity + step if nesterov else velocity), velocity


def in_threads(function, items, *, count):
    """[function(item), ...] by several threads."""
    import concurrent.futures

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, items))
