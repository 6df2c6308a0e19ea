"""CoCa: CLIP with a decoder that writes the text of the picture, one token after the other.

CLIP asks which text belongs to a picture; a captioner asks what the text says. CoCa asks both of one network: the first
half of its text tower sees texts alone and is contrasted with pictures, the second half, on top of it, looks at the
picture too and predicts each token from those before it,
    L = a L_clip + b mean_t CE(token_t | tokens before t, picture), a = 1, b = 2.
The mean is over all tokens of the batch. This is an objective to study at the size of one computer, and no rival of the
large models: what they can do comes from billions of pairs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses, models
from simclr_jax.methods import clip
from simclr_jax.models import captions, text

Array = jax.Array
PyTree = base.PyTree


def make_coca(
    encoder: nn.Module,
    *,
    vocab_size: int = 49408,
    text_length: int = 77,
    text_width: int = 512,
    text_num_layers: int = 6,
    text_num_heads: int = 8,
    caption_num_layers: int = 6,
    memory_length: int = 8,
    proj_out_dim: int = 512,
    contrastive_weight: float = 1.0,
    caption_weight: float = 2.0,
    loss_form: str = "auto",
    dtype: str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> base.Method:
    """CoCa as a Method; `embed` returns what CLIP's does, "caption_loss" and "num_tokens", [B] each.

    params are those of CLIP and "captioner". Metrics: CLIP's, "caption_loss", the mean over tokens, and
    "projection_spread" of the images, 0 where all have one projection. Exact in chunks.

    Args:
        encoder, vocab_size, text_length, proj_out_dim, loss_form, dtype, mesh: see `make_clip`.
        text_width, text_num_layers, text_num_heads: of the text tower, which is causal, with GELU.
        caption_num_layers: of the decoder, each with attention to the text and to the image.
        memory_length: as how many tokens the decoder is given an image.
        contrastive_weight, caption_weight: a and b; at least 0.

    Raises:
        InputError: a number is out of range or a choice unknown.

    Reference: Yu et al. 2022 (arXiv 2205.01917), equation 4; coca_model.py and CoCaLoss of open_clip. Deliberate
    differences: the decoder's memory is a linear map of h to a few tokens, so that any encoder will do, where CoCa
    pools patches by attention; texts are contrasted at their end token and not at one of their own behind it.

    Example:
        >>> sizes = {"vocab_size": 100, "text_length": 8, "text_width": 16, "text_num_layers": 1, "text_num_heads": 2}
        >>> method = methods.make_coca(models.make_encoder("resnet18", stem="cifar"), caption_num_layers=1, **sizes)
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 32, 32, 3)))
        >>> sorted(params["captioner"])
        ['block1', 'cross1', 'memory', 'norm', 'scores']
    """
    _check({"caption_num_layers": caption_num_layers, "memory_length": memory_length}, low=1)
    _check({"contrastive_weight": contrastive_weight, "caption_weight": caption_weight}, low=0)
    sizes: dict[str, Any] = {"vocab_size": vocab_size, "text_length": text_length, "text_width": text_width}
    sizes |= {"text_num_layers": text_num_layers, "text_num_heads": text_num_heads, "dtype": dtype}
    contrast = clip.make_clip(encoder, proj_out_dim=proj_out_dim, loss_form=loss_form, mesh=mesh, **sizes)
    tower, captioner = make_decoder(**sizes, caption_num_layers=caption_num_layers, memory_length=memory_length)
    towers = clip.make_towers(encoder, tower, proj_out_dim=proj_out_dim, objective="clip")

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        params, state = contrast.init(key, views)
        h = jax.ShapeDtypeStruct((2, len(params["image_projection"]["kernel"])), views.dtype)
        places = jax.ShapeDtypeStruct((2, text_length, text_width), views.dtype)
        params["captioner"] = captioner.lazy_init(jax.random.fold_in(key, 5), h, places)["params"]
        return params, state

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        del key
        h, batch_stats = towers.encode(params, method_state["batch_stats"], views)
        places: Any = tower.apply({"params": params["text_encoder"]}, batch["text"], at_all_places=True)
        end = text.end_of_text(batch["text"])
        outputs = clip.outputs_of(params, h, places[jnp.arange(len(h), dtype=jnp.int32), end])
        score = jax.vmap(lambda h: captioner.apply({"params": params["captioner"]}, h, places), 1, 1)
        scores: Any = score(h)
        told = caption_losses(scores, batch["text"])
        return {**outputs, **told}, {**method_state, "batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        contrastive, (method_state, metrics) = contrast.loss(outputs, method_state)
        caption = jnp.sum(outputs["caption_loss"]) / jnp.sum(outputs["num_tokens"])
        spread = losses.projection_spread(outputs["image"])
        metrics = {**metrics, "caption_loss": caption, "projection_spread": spread}
        return contrastive_weight * contrastive + caption_weight * caption, (method_state, metrics)

    return base.Method(init=init, embed=embed, loss=loss, update=contrast.update, needs=("text",))


def make_decoder(
    *,
    vocab_size: int,
    text_length: int,
    text_width: int,
    text_num_layers: int,
    text_num_heads: int,
    caption_num_layers: int,
    memory_length: int,
    dtype: str = "float32",
) -> tuple[text.TextTower, captions.Captioner]:
    """The two halves of CoCa's text side, for settings of `make_coca`."""
    shape: dict[str, Any] = {"width": text_width, "num_layers": text_num_layers, "num_heads": text_num_heads}
    tower = models.make_text_tower(vocab_size=vocab_size, length=text_length, dtype=dtype, **shape)
    return tower, captions.Captioner(vocab_size, memory_length, caption_num_layers, text_num_heads, dtype=dtype)


def caption_losses(scores: Array, tokens: Array) -> dict[str, Array]:
    """{"caption_loss": [B], the sum of -log p over the tokens of a text, "num_tokens": [B]}; means over V views.

    Args:
        scores: [B, V, L, vocab_size], at least float32, at each place those of the token behind it.
        tokens: int32 [B, L]; what is behind the end is not counted, nor the first token.
    """
    log_p = jax.nn.log_softmax(scores[:, :, :-1])
    own = jnp.take_along_axis(log_p, tokens[:, None, 1:, None], axis=3)[..., 0]
    counted = jnp.arange(1, tokens.shape[1], dtype=jnp.int32) <= text.end_of_text(tokens)[:, None]
    sums = -jnp.sum(jnp.where(counted[:, None], own, 0), axis=2)
    return {"caption_loss": jnp.mean(sums, axis=1), "num_tokens": jnp.sum(counted, axis=1).astype(sums.dtype)}


def write_captions(
    params: PyTree, h: Array, *, decoder: tuple[text.TextTower, captions.Captioner], num_beams: int = 1
) -> Array:
    """Texts about images, greedy or with beams: h [N, D] -> tokens int32 [N, L]; see `captions.decode`.

    Args:
        params: of a run of CoCa.
        h: representations by its encoder.
        decoder: of `make_decoder`, for its settings.
        num_beams: 1 for greedy decoding.
    """
    tower, captioner = decoder
    repeated = jnp.repeat(h, num_beams, axis=0)

    def score_next(tokens: Array) -> Array:
        rows = tokens.reshape(-1, tower.length)
        places: Any = tower.apply({"params": params["text_encoder"]}, rows, at_all_places=True)
        scores: Any = captioner.apply({"params": params["captioner"]}, repeated, places)
        return jnp.asarray(scores).reshape(*tokens.shape, -1)

    sizes = {"length": tower.length, "vocab_size": tower.vocab_size}
    return captions.decode(score_next, num_texts=len(h), num_beams=num_beams, **sizes)[0]


def _check(values: dict[str, float], *, low: int) -> None:
    for name, value in values.items():
        if not value >= low:
            raise base.InputError(f"{name} must be at least {low}; got {value}. CoCa's weights are 1.0 and 2.0.")
