"""BLIP's image-text matching on top of CLIP: does this text belong to this picture? Asked where it is hard to tell.

CLIP compares two vectors that know nothing of each other. A matching head sees both and answers yes or no; it learns
from each pair of the batch and from two that do not belong together. Which ones is the point: a text drawn for the
picture, and a picture drawn for the text, with the probability that CLIP's own cosines give them among the others,
    p(text j | picture i) ~ exp(S_ij), j != i,   p(picture i | text j) ~ exp(S_ij), i != j,
so that mistakes which CLIP is likely to make come most often. The loss is
    L = L_clip + w [sum_i BCE(m_ii, 1) + BCE(m_i,j(i), 0) + BCE(m_i(j),j, 0)] / 3B.
This is an objective to study: no captioning, no cross-attention, and no rival of the large models.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import clip, tiles

Array = jax.Array
PyTree = base.PyTree


def make_blip(
    encoder: nn.Module,
    *,
    vocab_size: int = 49408,
    text_length: int = 77,
    text_width: int = 512,
    text_num_layers: int = 12,
    text_num_heads: int = 8,
    proj_out_dim: int = 512,
    matching_weight: float = 1.0,
    loss_form: str = "auto",
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> base.Method:
    """CLIP with BLIP's matching head as a Method; `embed` returns what CLIP's does, the head and two draws a row.

    params are those of CLIP and "matching": {"kernel" [d], "bias" []}. Metrics: CLIP's, "matching_loss",
    "matching_accuracy" over pairs that belong together and pairs that do not, of which the latter are two thirds, and
    "projection_spread" of the images. Exact in chunks. Similarities of the whole batch, [B, B], are held at once.

    Args:
        encoder, vocab_size, text_length, proj_out_dim, loss_form, dtype, mesh: see `make_clip`.
        text_width, text_num_layers, text_num_heads: of the text tower, which is causal, with GELU.
        matching_weight: w; at least 0.

    Raises:
        InputError: a number is out of range or a choice unknown.

    Reference: Li et al. 2022 (arXiv 2201.12086), section 3.2; blip_pretrain.py of salesforce/BLIP for the drawing of
    negatives and the mean over 3B. Deliberate differences: the head is one linear layer on the products of the two
    unit vectors, where BLIP runs a text encoder that attends to the picture, so that a batch in chunks stays exact;
    one answer with its sigmoid in the place of two with softmax, which is the same; negatives come from the whole
    batch, and neither a momentum network nor a captioner is there.

    Example:
        >>> sizes = {"vocab_size": 100, "text_length": 8, "text_width": 16, "text_num_layers": 1, "text_num_heads": 2}
        >>> method = methods.make_blip(models.make_encoder("resnet18", stem="cifar"), **sizes)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 32, 32, 3)))
        >>> params["matching"]["kernel"].shape
        (512,)
    """
    if not matching_weight >= 0:
        raise base.InputError(f"matching_weight must be at least 0; got {matching_weight}. BLIP's is 1.0.")
    contrast = clip.make_clip(
        encoder,
        vocab_size=vocab_size,
        text_length=text_length,
        text_width=text_width,
        text_num_layers=text_num_layers,
        text_num_heads=text_num_heads,
        proj_out_dim=proj_out_dim,
        loss_form=loss_form,
        dtype=dtype,
        mesh=mesh,
    )

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, state = contrast.init(key, views)
        own = params["image_projection"]["kernel"].dtype
        # Of equal weights the answer begins as the cosine.
        params["matching"] = {"kernel": jnp.ones(proj_out_dim, own), "bias": jnp.zeros((), own)}
        return params, state

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        outputs, method_state = contrast.embed(params, method_state, views, batch, key)
        # The loss sees no parameters and no key: rows of outputs carry them.
        head = {f"matching_{name}": value for name, value in params["matching"].items()}
        head = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(views), *leaf.shape)), head)
        draws = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(tiles.row_keys(key, batch))
        return {**outputs, **head, "draws": draws}, method_state

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        contrastive, (method_state, metrics) = contrast.loss(outputs, method_state)
        head = outputs["matching_kernel"][0], outputs["matching_bias"][0]
        scale, draws = jnp.exp(outputs["log_scale"][0]), outputs["draws"]
        views = [outputs["image"][:, view] for view in range(outputs["image"].shape[1])]
        found = [match(image, outputs["text"], head=head, scale=scale, draws=draws) for image in views]
        matching, accuracy = jax.tree.map(lambda *x: sum(x) / len(x), *found)
        metrics = {**metrics, "matching_loss": matching, "matching_accuracy": accuracy}
        metrics["projection_spread"] = losses.projection_spread(outputs["image"])
        return contrastive + matching_weight * matching, (method_state, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=contrast.update, needs=("text",))


def match(image: Array, text: Array, *, head: tuple[Array, Array], scale: Array, draws: Array) -> tuple[Array, Array]:
    """(loss, accuracy) of the matching head on the pairs of a batch and on hard ones that it draws.

    Args:
        image, text: projections [B, d] before normalisation; row i of one belongs to row i of the other.
        head: (kernel [d], bias []).
        scale: what cosines are multiplied by before they decide on negatives.
        draws: [B, 2] in [0, 1), for a text to each image and for an image to each text.
    """
    image, text = (x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=1, keepdims=True), 1e-12)) for x in (image, text))

    def similarities(rows: Array, columns: Array) -> Array:
        # Of each side with its own rows: a transposed matrix would be exchanged among all devices.
        return jax.lax.stop_gradient(scale * jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST))

    texts = draw_negatives(similarities(image, text), draws[:, 0])
    images = draw_negatives(similarities(text, image), draws[:, 1])
    kernel, bias = head
    pairs = ((image, text), (image, text[texts]), (image[images], text))
    answers = jnp.stack([jnp.sum(a * b * kernel, axis=1) + bias for a, b in pairs])
    # BCE with the logit m is softplus(-m) where the answer is yes and softplus(m) where it is no.
    signs = jnp.asarray([[1.0], [-1.0], [-1.0]], answers.dtype)
    return jnp.mean(jax.nn.softplus(-signs * answers)), jnp.mean((signs * answers > 0).astype(jnp.float32))


def draw_negatives(similarity: Array, draws: Array) -> Array:
    """int32 [B]: for each row a column other than its own, drawn with the probability ~ exp(similarity [B, B]).

    draws: [B] in [0, 1); places on the cumulated probabilities of a row.
    """
    own = jnp.eye(len(similarity), dtype=bool)
    chances = jax.nn.softmax(jnp.where(own, -jnp.inf, similarity))
    places = jnp.cumsum(chances, axis=1)
    # Of the last sum, which rounding leaves a little off 1; an own column has no width and is never met.
    aims = draws[:, None].astype(places.dtype) * places[:, -1:]
    last = len(similarity) - 1
    return jnp.minimum(jnp.sum((places <= aims).astype(jnp.int32), axis=1), last)
