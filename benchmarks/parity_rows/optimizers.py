"""Rows of the optimizers, the schedules and the weight decay."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.parity_rows import table
from benchmarks.parity_rows.table import Case, Row
from simclr_jax import optim
from tests import golden, oracles

GROUP = "Optimizers and schedules"
VARIANTS = {"wd1e-6": "lars", "wd1e-4": "lars", "wd1e-4_nesterov": "lars", "wd1e-4_popular": "lars_popular"}
_LEAVES = {"gamma": "scale", "beta": "bias"}


def to_tree(values: dict[str, np.ndarray], dtype: str) -> dict:
    """Nested parameters from canonical names, with the leaf names of our trees."""
    tree: dict = {}
    for name, value in values.items():
        *modules, leaf = name.split("/")
        node = tree
        for module in modules:
            node = node.setdefault(module, {})
        node[_LEAVES.get(leaf, leaf)] = jnp.asarray(value, dtype)
    return tree


@functools.cache
def _lars_run(variant: str, dtype: str) -> list[tuple[dict, dict]]:
    """(parameters, velocities) by canonical name after every golden step."""
    with jax.enable_x64(dtype == "float64"):
        arrays = golden.load("lars")
        names, rates = arrays["canonical_names"].tolist(), jnp.asarray(arrays["learning_rates"], dtype)
        decay, nesterov = float(arrays[f"{variant}/weight_decay"]), bool(arrays[f"{variant}/nesterov"])
        tx = optim.make_optimizer(
            VARIANTS[variant], learning_rate=lambda step: rates[step], weight_decay=decay, nesterov=nesterov
        )
        params = to_tree({name: arrays[f"init/{name}"] for name in names}, dtype)
        state, update, history = tx.init(params), jax.jit(tx.update), []
        for step in range(len(rates)):
            gradients = to_tree({name: arrays[f"grads/{name}"][step] for name in names}, dtype)
            # In the file the decay of this kernel is not the optimizer's: taken off, so that ours cancels.
            head = gradients["supervised_head"]["dense"]
            head["kernel"] -= decay * params["supervised_head"]["dense"]["kernel"]
            updates, state = update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            velocity = jax.device_get(optax.tree.get(state, "trace"))
            history.append((oracles.named_leaves(jax.device_get(params)), oracles.named_leaves(velocity)))
    return history


def _lars(variant: str, dtype: str) -> Iterator[Case]:
    arrays = golden.load("lars")
    # With the learning rate inside the velocity, ours has the sign of the update.
    sign = -1 if VARIANTS[variant] == "lars" else 1
    for step, (params, velocities) in enumerate(_lars_run(variant, dtype)):
        for name, ours in params.items():
            yield Case(ours, arrays[f"{variant}/params_f64/{name}"][step])
            yield Case(sign * velocities[name], arrays[f"{variant}/momentum_f64/{name}"][step])


def _lars_tf1(variant: str) -> Iterator[Case]:
    arrays = golden.load("lars_tf1")
    for step, (params, _) in enumerate(_lars_run(variant, "float32")):
        for name, ours in params.items():
            yield Case(ours, arrays[f"{variant}/params/{name}"][step])


def schedule_of(case: str) -> optax.Schedule:
    """Our schedule with the settings of a golden case."""
    arrays = golden.load("schedule")
    return optim.make_schedule(
        base_learning_rate=arrays[f"{case}/base_learning_rate"].item(),
        learning_rate_scaling=arrays[f"{case}/scaling"].item(),
        warmup_epochs=arrays[f"{case}/warmup_epochs"].item(),
        batch_size=arrays[f"{case}/batch_size"].item(),
        num_examples=arrays[f"{case}/num_examples"].item(),
        num_epochs=arrays[f"{case}/epochs"].item(),
        num_steps=arrays[f"{case}/train_steps_override"].item() or None,
    )


def _schedules(dtype: str, reference: Callable[[str], np.ndarray]) -> Iterator[Case]:
    arrays = golden.load("schedule")
    for case in arrays["case_names"].tolist():
        with jax.enable_x64(dtype == "float64"):
            rates = jax.device_get(jax.jit(jax.vmap(schedule_of(case)))(jnp.asarray(arrays[f"{case}/steps"])))
        yield Case(rates, reference(case), float(arrays[f"{case}/peak_f64"]))


def _step_counts() -> Iterator[Case]:
    arrays = golden.load("schedule")
    for case in arrays["case_names"].tolist():
        sizes = {key: arrays[f"{case}/{key}"].item() for key in ("num_examples", "batch_size")}
        epochs, warmup_epochs = (arrays[f"{case}/{key}"].item() for key in ("epochs", "warmup_epochs"))
        yield Case(optim.num_warmup_steps(**sizes, warmup_epochs=warmup_epochs), arrays[f"{case}/warmup_steps"])
        if not arrays[f"{case}/train_steps_override"]:
            yield Case(optim.num_train_steps(**sizes, num_epochs=epochs), arrays[f"{case}/total_steps"])


def _optax_schedule(case: str) -> np.ndarray:
    arrays = golden.load("schedule")
    peak, warmup, total = (arrays[f"{case}/{key}"].item() for key in ("peak_f64", "warmup_steps", "total_steps"))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        theirs = optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total) if warmup else None
        theirs = theirs or optax.cosine_decay_schedule(peak, total)
        # As floats: of integer steps optax computes in float32 also under enable_x64.
        return np.asarray(jax.vmap(theirs)(jnp.asarray(arrays[f"{case}/steps"], float)))


def _live_gradients(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=start.shape) for name, start in _LIVE.items()}


_LIVE = {
    "conv1/kernel": np.random.default_rng(90).normal(size=(3, 3, 4, 8)),
    "bn1/gamma": np.random.default_rng(91).normal(size=(8,)),
    "dense/kernel": np.random.default_rng(92).normal(size=(8, 5)),
    "dense/bias": np.random.default_rng(93).normal(size=(5,)),
}
RATES = (0.0, 0.1, 0.2, 0.15, 0.05)


def run_live(tx: optax.GradientTransformation, *, num_steps: int = len(RATES)) -> dict[str, np.ndarray]:
    """Float64 parameters by name after some steps on random gradients; call it under enable_x64."""
    params = to_tree(_LIVE, "float64")
    state, update = tx.init(params), jax.jit(tx.update)
    for step in range(num_steps):
        updates, state = update(to_tree(_live_gradients(step), "float64"), state, params)
        params = optax.apply_updates(params, updates)
    return oracles.named_leaves(jax.device_get(params))


def scheduled(rates: tuple[float, ...] = RATES) -> optax.Schedule:
    """A schedule that reads its values from a table."""
    return lambda step: jnp.asarray(rates)[step]


def _optax_lars() -> Iterator[Case]:
    """optax.lars with masks written out by hand."""
    kernels = to_tree({name: name.endswith("kernel") for name in _LIVE}, "bool")
    kernels = jax.tree.map(bool, kernels)
    for nesterov in (False, True):
        with jax.enable_x64(True):
            theirs = run_live(
                optax.lars(
                    scheduled(),
                    weight_decay=1e-2,
                    weight_decay_mask=kernels,
                    trust_coefficient=1e-3,
                    trust_ratio_mask=kernels,
                    momentum=0.9,
                    nesterov=nesterov,
                )
            )
            ours = run_live(optim.make_lars(learning_rate=scheduled(), weight_decay=1e-2, nesterov=nesterov))
        yield from (Case(ours[name], theirs[name]) for name in theirs)


def _numpy_lars() -> Iterator[Case]:
    for nesterov in (False, True):
        with jax.enable_x64(True):
            ours = run_live(optim.make_lars(learning_rate=scheduled(), weight_decay=1e-2, nesterov=nesterov))
        for name, start in _LIVE.items():
            kernel, weight, velocity = name.endswith("kernel"), start, np.zeros_like(start)
            for step, rate in enumerate(RATES):
                weight, velocity = oracles.lars_step(
                    *(weight, _live_gradients(step)[name], velocity),
                    learning_rate=rate,
                    weight_decay=1e-2 if kernel else 0.0,
                    adapted=kernel,
                    nesterov=nesterov,
                )
            yield Case(ours[name], weight)


def _optax_sgd() -> Iterator[Case]:
    for nesterov in (False, True):
        with jax.enable_x64(True):
            theirs = run_live(optax.sgd(scheduled(), momentum=0.9, nesterov=nesterov))
            ours = run_live(optim.make_sgd(learning_rate=scheduled(), weight_decay=0.0, nesterov=nesterov))
        yield from (Case(ours[name], theirs[name]) for name in theirs)


def _torch_run(name: str, make: Callable) -> np.ndarray:
    import torch

    parameter = torch.nn.Parameter(torch.tensor(_LIVE[name]))
    optimizer = make([parameter])
    for step in range(len(RATES)):
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        parameter.grad = torch.tensor(_live_gradients(step)[name])
        optimizer.step()
    return parameter.detach().numpy()


def _torch_optimizer(ours: str, theirs: str, *, decays: Callable[[str], bool], **settings: object) -> Iterator[Case]:
    import torch

    with jax.enable_x64(True):
        tx = optim.make_optimizer(ours, learning_rate=scheduled(), weight_decay=1e-2, nesterov="nesterov" in settings)
        found = run_live(tx)
    for name, value in found.items():
        decay = 1e-2 if decays(name) else 0.0
        make = functools.partial(getattr(torch.optim, theirs), lr=0.1, weight_decay=decay, **settings)
        yield Case(value, _torch_run(name, make))


def _weight_decay_terms(optimizer: str, name: str) -> Iterator[Case]:
    """The term of the loss whose gradient our optimizer adds: wd/2 |W|^2 over what it decays."""
    arrays = golden.load("weight_decay_term")
    shapes = [tuple(int(n) for n in s.split(",")) for s in arrays["variables/shapes"]]
    variables = dict(zip(arrays["variables/canonical_names"].tolist(), shapes, strict=True))
    trainable = {n: oracles.golden_value(n, s) for n, s in variables.items() if not n.endswith(("/mean", "/var"))}
    for decay in ("1e-06", "0.0001"):
        with jax.enable_x64(True):
            params = to_tree(trainable, "float64")
            tx = optim.make_optimizer(optimizer, learning_rate=1.0, weight_decay=float(decay), momentum=0.0)
            updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
            # Under LARS the other kernels are decayed inside the trust ratio, and the loss has no term for them.
            seen = ["supervised_head"] if optimizer == "lars" else list(params)
            products = [jax.tree.map(lambda u, w: jnp.sum(u * w), updates[part], params[part]) for part in seen]
            term = -float(sum(jax.tree.leaves(products))) / 2
        yield Case(term, arrays[f"{name}_wd{decay}/value_f64"])


def _is_not_batch_norm(name: str) -> bool:
    return not name.startswith("bn")


def _lars_rows() -> list[Row]:
    rows = []
    for variant in VARIANTS:
        words = variant.replace("_", ", ").replace("wd1e", "decay 1e")
        for dtype, short, limit in (("float64", "f64", 1e-12), ("float32", "f32", 1e-6)):
            cases = functools.partial(_lars, variant, dtype)
            rows.append(Row(f"LARS, {words}, {short}", "TF2", limit, table.LARGEST, cases))
        cases = functools.partial(_lars_tf1, variant)
        rows.append(Row(f"LARS, {words}, f32", "TF1", 1e-6, table.LARGEST, cases))
    return rows


def _tf(kind: str) -> Callable[[str], np.ndarray]:
    file = "schedule_tf1" if kind == "tf1" else "schedule"
    suffix = "_f64" if kind == "f64" else ""
    return lambda case: golden.load(file)[f"{case}/learning_rate{suffix}"]


ROWS = [
    *_lars_rows(),
    Row("LARS, f64", "NumPy", 1e-12, table.LARGEST, _numpy_lars),
    Row("LARS with masks, f64", "optax.lars", 1e-12, table.LARGEST, _optax_lars),
    Row("SGD, momentum, f64", "optax.sgd", 1e-12, table.LARGEST, _optax_sgd),
    Row(
        *("SGD, Nesterov, decay, f64", "torch.optim.SGD", 1e-12, table.LARGEST),
        functools.partial(_torch_optimizer, "sgd", "SGD", decays=_is_not_batch_norm, momentum=0.9, nesterov=True),
        ("torch",),
    ),
    Row(
        *("AdamW, f64", "torch.optim.AdamW", 1e-12, table.LARGEST),
        functools.partial(_torch_optimizer, "adamw", "AdamW", decays=lambda name: name.endswith("kernel")),
        ("torch",),
    ),
    Row("decay term, LARS, f64", "TF2", 1e-9, table.EACH, lambda: _weight_decay_terms("lars", "lars")),
    Row("decay term, SGD, f64", "TF2", 1e-9, table.EACH, lambda: _weight_decay_terms("sgd", "momentum")),
    Row("schedule, f64", "TF2", 1e-12, "of the peak", lambda: _schedules("float64", _tf("f64"))),
    Row("schedule, f32", "TF2", 1e-6, "of the peak", lambda: _schedules("float32", _tf("f32"))),
    Row("schedule, f32", "TF1", 1e-6, "of the peak", lambda: _schedules("float32", _tf("tf1"))),
    Row("schedule, f64", "optax", 1e-12, "of the peak", lambda: _schedules("float64", _optax_schedule)),
    Row("numbers of steps", "TF2", 0.0, table.EXACT, _step_counts),
]
