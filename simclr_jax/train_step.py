"""The pure training step: rows of data -> views -> loss -> gradient -> update, with the batch whole or in chunks.

It receives the method, the optimizer and the views as functions and knows none of them by name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from simclr_jax import base, optim

LoadBatch = Callable[[Any, base.Array, base.Array], base.Batch]
LoadViews = Callable[[base.Array, Any, base.Array, base.Array], tuple[base.Batch, base.Views]]
Dispatch = Callable[[base.TrainState, base.Array, Any, base.Array, base.Array], tuple[base.TrainState, base.Metrics]]
TrainStep = Callable[[base.TrainState, base.Array, Any, base.Array], tuple[base.TrainState, base.Metrics]]
LossAux = tuple[base.Array, tuple[base.PyTree, base.Metrics]]
# (state, (views_key, embed_key), source, indices [B]) -> ((loss, (method_state, metrics)), gradient of the parameters).
Differentiate = Callable[[base.TrainState, tuple[base.Array, base.Array], Any, base.Array], tuple[LossAux, base.PyTree]]
GROUP_NORM = "gradient_norm/"  # and the part of the network: the metric that is the L2 norm of its gradient


class Chunks(NamedTuple):
    """How the rows of a batch fall into chunks that pass through the network one after the other.

    num_chunks: C; 1 = the whole batch at once.
    num_devices: D. Device d holds rows [d*B/D, (d+1)*B/D) of the batch; chunk c has the c-th part of every device's
        rows, so that all devices work on every chunk and no image leaves its device.
    source_is_rows: whether the source of `load_views` has the rows of the batch (and is cut with it), or all the data.
    """

    num_chunks: int = 1
    num_devices: int = 1
    source_is_rows: bool = False


def check_chunks(batch_size: int, chunks: Chunks) -> None:
    """Raises InputError unless every device's share of the batch, B/D images, falls into C equal chunks.

    Example:
        >>> train_step.check_chunks(4096, train_step.Chunks(num_chunks=8, num_devices=8))
    """
    share, count = batch_size // chunks.num_devices, chunks.num_chunks
    if count < 1 or share % count:
        divisors = [n for n in range(1, share + 1) if share % n == 0]
        nearest = {
            max((n for n in divisors if n <= count), default=1),
            min(n for n in divisors if n >= min(count, share)),
        }
        raise base.InputError(
            f"train.num_chunks must divide the images per device; got {count} chunks and {share} images per device "
            f"(batch {batch_size} on {chunks.num_devices}). Use {' or '.join(map(str, sorted(nearest)))}."
        )


def _cut(tree: base.PyTree, chunks: Chunks) -> base.PyTree:
    """[B, ...] -> [C, B/C, ...]: the rows of every chunk."""

    def cut(x: base.Array) -> base.Array:
        shares = x.reshape(chunks.num_devices, chunks.num_chunks, -1, *x.shape[1:])
        return jnp.swapaxes(shares, 0, 1).reshape(chunks.num_chunks, -1, *x.shape[1:])

    return jax.tree.map(cut, tree)


def _join(tree: base.PyTree, chunks: Chunks) -> base.PyTree:
    """[C, B/C, ...] -> [B, ...], the inverse of `_cut`."""

    def join(x: base.Array) -> base.Array:
        shares = x.reshape(chunks.num_chunks, chunks.num_devices, -1, *x.shape[2:])
        return jnp.swapaxes(shares, 0, 1).reshape(-1, *x.shape[2:])

    return jax.tree.map(join, tree)


def make_load_views(load_batch: LoadBatch, make_views: base.MakeViews) -> LoadViews:
    """(views_key, source, indices [B], positions [B]) -> (batch, views [B, V, h, w, 3]), row by row.

    With views of several sizes they are a tuple of such arrays.

    Being row by row, it may be split over devices with no communication (`sharding.map_rows`).
    """

    def load_views(
        key: base.Array, source: Any, indices: base.Array, positions: base.Array
    ) -> tuple[base.Batch, base.Views]:
        batch = load_batch(source, indices, positions)
        if "text" in batch:
            batch["text"] = choose_texts(key, batch["text"], positions)
        return batch, make_views(key, batch["image"], batch["size"], batch["position"])

    return load_views


def choose_texts(key: base.Array, texts: base.Array, positions: base.Array) -> base.Array:
    """int32 [B, L]: one of the texts int32 [B, C, L] of every example, drawn anew in every step; rows of -1 are none.

    A draw is a function of the step's `key` and of the row's place in the global batch alone.

    Example:
        >>> train_step.choose_texts(key, jnp.asarray([[[7, 8], [-1, -1]]]), jnp.arange(1)).tolist()
        [[7, 8]]
    """
    counts = jnp.sum(texts[:, :, 0] >= 0, axis=1, dtype=jnp.int32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, 2**31 - 1), positions)  # as no view has
    rows = jax.vmap(lambda key, count: jax.random.randint(key, (), 0, count))(keys, counts)
    return jnp.take_along_axis(texts, rows[:, None, None], axis=1)[:, 0]


def views_key(key: base.Array, step: base.Array) -> base.Array:
    """The key of all views of update `step` (0-based) of the run with key `key`.

    Example:
        >>> train_step.views_key(key, 3).shape
        ()
    """
    return jax.random.fold_in(jax.random.fold_in(key, step), 0)


def differentiate_whole(method: base.Method, load_views: LoadViews) -> Differentiate:
    """The gradient with the whole batch in the network at once."""

    def differentiate(
        state: base.TrainState, keys: tuple[base.Array, base.Array], source: Any, indices: base.Array
    ) -> tuple[LossAux, base.PyTree]:
        positions = jnp.arange(indices.shape[0], dtype=jnp.int32)
        batch, views = load_views(keys[0], source, indices, positions)

        def loss_fn(params: base.PyTree) -> LossAux:
            outputs, method_state = method.embed(params, state.method_state, views, batch, keys[1])
            return method.loss(outputs, method_state)

        return jax.value_and_grad(loss_fn, has_aux=True)(state.params)

    return differentiate


def differentiate_in_chunks(method: base.Method, load_views: LoadViews, chunks: Chunks) -> Differentiate:
    """The same gradient with only one chunk of the batch in the network at a time.

    First all chunks are embedded without keeping activations, then the loss of the whole batch of outputs is
    differentiated in the outputs, then every chunk is embedded once more and its part pulled back to the parameters.
    Memory is that of one chunk and of all outputs; the network's forward pass and the views are computed twice. Views
    are made again rather than kept, as they would be the largest array: they are a pure function of key and position,
    the same but for the rounding of another compilation.

    Exact wherever an image's outputs do not depend on the other images ("group" and "frozen" of `norms.Norm`). Under
    BatchNorm it is the exact gradient of the loss whose statistics are those of each chunk. Method states pass from
    chunk to chunk in order, so moving averages move once per chunk, and by the same values in both passes; the state of
    the last chunk is the result. With several devices the chunk is spread over all of them and the parameters' gradient
    is summed over devices chunk by chunk.

    Reference: Gao et al. 2021, gradient cache. Deliberate difference: the random numbers of both passes are the same by
    construction and need no saved generator states.
    """

    def differentiate(
        state: base.TrainState, keys: tuple[base.Array, base.Array], source: Any, indices: base.Array
    ) -> tuple[LossAux, base.PyTree]:
        positions = jnp.arange(indices.shape[0], dtype=jnp.int32)
        rows = _cut((indices, positions, source if chunks.source_is_rows else ()), chunks)

        def embed(params: base.PyTree, method_state: base.PyTree, rows: Any) -> tuple[base.PyTree, base.PyTree]:
            indices, positions, own = rows
            batch, views = load_views(keys[0], own if chunks.source_is_rows else source, indices, positions)
            return method.embed(params, method_state, views, batch, keys[1])

        def forward(method_state: base.PyTree, rows: Any) -> tuple[base.PyTree, base.PyTree]:
            outputs, method_state = embed(state.params, method_state, rows)
            return method_state, outputs

        method_state, outputs = jax.lax.scan(forward, state.method_state, rows)
        outputs = _join(outputs, chunks)
        result, cotangents = jax.value_and_grad(method.loss, has_aux=True)(outputs, method_state)

        def backward(carry: tuple[base.PyTree, base.PyTree], row: Any) -> tuple[tuple[base.PyTree, base.PyTree], None]:
            (method_state, total), (rows, cotangents) = carry, row
            _, pull_back, method_state = jax.vjp(
                lambda params: embed(params, method_state, rows), state.params, has_aux=True
            )
            return (method_state, jax.tree.map(jnp.add, total, pull_back(cotangents)[0])), None

        start = (state.method_state, jax.tree.map(jnp.zeros_like, state.params))
        (_, gradients), _ = jax.lax.scan(backward, start, (rows, _cut(cotangents, chunks)))
        return result, gradients

    return differentiate


def make_train_step(
    method: base.Method,
    tx: optax.GradientTransformation,
    load_views: LoadViews,
    *,
    schedule: base.Schedule,
    chunks: Chunks | None = None,
) -> TrainStep:
    """One update: (state, key, source, indices int32 [B]) -> (state, metrics of float32 scalars).

    `key` is the run's key and the same in every call: all randomness is a function of (key, step, position in the
    global batch). `source` is whatever `load_views` reads rows from. Metrics hold the method's own, "loss",
    "gradient_norm" (L2; of a part of the network "gradient_norm/encoder/stem") and "learning_rate". With more than one
    of `chunks` the gradient is that of `differentiate_in_chunks`; it needs outputs of `embed` all of float type.
    """
    if chunks is None or chunks.num_chunks == 1:
        differentiate = differentiate_whole(method, load_views)
    else:
        differentiate = differentiate_in_chunks(method, load_views, chunks)

    def train_step(
        state: base.TrainState, key: base.Array, source: Any, indices: base.Array
    ) -> tuple[base.TrainState, base.Metrics]:
        keys = views_key(key, state.step), jax.random.fold_in(jax.random.fold_in(key, state.step), 1)
        (loss, (method_state, metrics)), gradients = differentiate(state, keys, source, indices)
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        params, method_state = method.update(params, method_state, state.step)
        norm, norms = optim.norms_by_group(gradients, nested="encoder")
        metrics = {**metrics, **{GROUP_NORM + name: part for name, part in norms.items()}, "loss": loss}
        metrics |= {"gradient_norm": norm, "learning_rate": jnp.asarray(schedule(state.step), jnp.float32)}
        return base.TrainState(state.step + 1, params, method_state, opt_state), metrics

    return train_step


def skip_nonfinite(step: TrainStep) -> TrainStep:
    """`step` that leaves parameters and states as they are where its loss, its gradient or their result is not finite.

    The step is counted all the same, so that the next one draws other images, and the metric "skipped" is 1. It needs
    memory for the parameters and states of before the update.

    Example:
        >>> careful = train_step.skip_nonfinite(lambda state, key, source, indices: (state, {}))
    """

    def careful(
        state: base.TrainState, key: base.Array, source: Any, indices: base.Array
    ) -> tuple[base.TrainState, base.Metrics]:
        after, metrics = step(state, key, source, indices)
        numbers = [metrics["loss"], metrics["gradient_norm"], *jax.tree.leaves((after.params, after.method_state))]
        checks = [jnp.isfinite(x).all() for x in numbers if jnp.issubdtype(x.dtype, jnp.inexact)]
        good = jnp.stack(checks).all()
        kept = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
        return kept._replace(step=after.step), {**metrics, "skipped": 1 - good.astype(jnp.float32)}

    return careful


def make_update(method: base.Method, tx: optax.GradientTransformation) -> Callable[..., Any]:
    """One update on views that you have made, for a loop of your own: (state, views) -> (state, metrics).

    The result is a pure function to be wrapped in `jax.jit`, called as
    `update(state, views, labels=None, index=None, texts=None, key=None)`, with views float [B, V, h, w, 3] (or a tuple
    of them, for multi-crop); labels int32 [B] (-1 = unlabelled) for methods with a classifier, `index` int32 [B],
    places in the data set, for those that remember images, `texts` int32 [B, L] for those that read texts. The state is
    that of `init_state`. Metrics are the method's own, "loss" and "gradient_norm".

    Example:
        >>> method = methods.make_simclr(models.make_encoder("resnet18", stem="cifar"))
        >>> update = jax.jit(train_step.make_update(method, optim.make_lars(0.3)))
    """

    def load_views(
        key: base.Array, source: Any, indices: base.Array, positions: base.Array
    ) -> tuple[base.Batch, base.Views]:
        del key
        views, labels, index, texts = source
        count, mask = labels.shape[0], indices >= 0
        image, size = jnp.zeros((count, 1, 1, 3), jnp.uint8), jnp.ones((count, 2), jnp.int32)
        own: Any = {} if texts is None else {"text": texts}
        own |= {"image": image, "size": size, "label": labels, "index": index, "position": positions, "mask": mask}
        return own, views

    step = make_train_step(method, tx, load_views, schedule=lambda _: jnp.zeros(()))

    def update(
        state: base.TrainState,
        views: base.Views,
        *,
        labels: base.Array | None = None,
        index: base.Array | None = None,
        texts: base.Array | None = None,
        key: base.Array | None = None,
    ) -> tuple[base.TrainState, base.Metrics]:
        base.check_given(method, views, {"index": index, "text": texts})
        indices = jnp.arange(jax.tree.leaves(views)[0].shape[0], dtype=jnp.int32)
        labels = jnp.full_like(indices, -1) if labels is None else labels
        source = views, labels, indices if index is None else index, texts
        state, metrics = step(state, jax.random.key(0) if key is None else key, source, indices)
        hidden = ("learning_rate", GROUP_NORM)
        return state, {name: value for name, value in metrics.items() if not name.startswith(hidden)}

    return update


def single_step(train_step: TrainStep) -> Dispatch:
    """One update a dispatch, in the form of `repeat_steps` with K = 1; `count` is not read."""

    def train_steps(
        state: base.TrainState, key: base.Array, source: Any, indices: base.Array, count: base.Array
    ) -> tuple[base.TrainState, base.Metrics]:
        del count
        state, metrics = train_step(state, key, source, indices[0])
        return state, jax.tree.map(lambda x: x[None], metrics)

    return train_steps


def repeat_steps(train_step: TrainStep) -> Dispatch:
    """Up to K updates in one dispatch: (state, key, source, indices int32 [K, B], count) -> (state, metrics [K]).

    `count` is a traced int32 <= K, so that one compiled program also serves the shorter last dispatch of a run; the
    metrics from `count` on are NaN. For accelerators: where dispatching costs next to nothing it gains nothing.
    """

    def train_steps(
        state: base.TrainState, key: base.Array, source: Any, indices: base.Array, count: base.Array
    ) -> tuple[base.TrainState, base.Metrics]:
        shapes = jax.eval_shape(train_step, state, key, source, indices[0])[1]
        empty = {name: jnp.full((indices.shape[0],), jnp.nan, jnp.float32) for name in shapes}

        def body(i: base.Array, carry: tuple[base.TrainState, base.Metrics]) -> tuple[base.TrainState, base.Metrics]:
            state, history = carry
            state, metrics = train_step(state, key, source, indices[i])
            return state, {name: history[name].at[i].set(metrics[name].astype(jnp.float32)) for name in history}

        return jax.lax.fori_loop(0, count, body, (state, empty))

    return train_steps


def init_state(
    method: base.Method, tx: optax.GradientTransformation, key: base.Array, *, views_shape: tuple[Any, ...]
) -> base.TrainState:
    """The state before the first update, for views of shape (B, V, h, w, 3), or of a tuple of such shapes.

    Pure: wrap it in `jit` or `eval_shape`.

    Example:
        >>> method = methods.make_simclr(models.make_encoder("resnet18", stem="cifar"))
        >>> init = lambda: train_step.init_state(method, optim.make_lars(0.3), key, views_shape=(2, 2, 32, 32, 3))
        >>> jax.eval_shape(init).step.dtype
        dtype('int32')
    """
    one_size = isinstance(views_shape[0], int)
    views = [jnp.zeros(shape, jnp.float32) for shape in ((views_shape,) if one_size else views_shape)]
    params, method_state = method.init(key, views[0] if one_size else tuple(views))
    return base.TrainState(jnp.zeros((), jnp.int32), params, method_state, tx.init(params))
