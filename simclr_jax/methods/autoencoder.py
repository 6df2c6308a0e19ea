"""Autoencoders: the image, back out of its representation; also out of that of a damaged or a grey copy."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from simclr_jax import base, losses
from simclr_jax.methods import parts, tiles
from simclr_jax.models import decoder as decoder_lib
from simclr_jax.models import norms

Array = jax.Array
PyTree = base.PyTree

CORRUPTIONS = ("none", "noise", "mask", "gray")
_LUMA = (0.2989, 0.587, 0.114)


def make_autoencoder(
    encoder: nn.Module,
    *,
    corruption: str = "noise",
    corruption_level: float = 0.25,
    decoder_width: int = 128,
    dtype: str = "float32",
) -> base.Method:
    """An autoencoder as a Method; `embed` returns {"errors": float [B], "h": float [B, D]}.

    A decoder g makes the image out of its representation of D numbers, and both are trained for the squared error,

        L = mean over pixels and colours of (g(f(c(x))) - x)^2,

    where c may damage the image first: a network that must mend it cannot copy, it has to know how images are.
    What is kept best is what most pixels are made of, brightness and colour of large areas, and not what is seen.

    "none": a plain autoencoder of colour images. "noise": normal noise is added to every pixel and colour. "mask":
    pixels are set to 0, all their colours. "gray": colours are taken away and have to be foretold.

    params are {"encoder", "decoder"}. Metrics: "projection_spread" of h, 0 where all images have one representation;
    the loss does not tell what that would cost, it depends on the images. Exact in chunks. One view an image is used.

    Args:
        encoder: `apply(variables, images, train=...)` -> h [N, D].
        corruption: "none", "noise", "mask" or "gray".
        corruption_level: deviation of the noise, or share of the pixels that are masked, at most 1.
        decoder_width: channels at the decoder's lowest resolution, an eighth of the image's; halved at each step up.
        dtype: type of the decoder's activations.

    Raises:
        InputError: a value is out of range.

    Reference: Vincent et al. 2008 (ICML, "Extracting and composing robust features with denoising autoencoders"),
    section 2.3, and 2010 (JMLR 11) for noise; Zhang et al. 2016 (arXiv 1603.08511), equation 1, for colours. Deliberate
    differences: one deep network in place of layers trained one after the other; no weights are shared by encoder and
    decoder; the error is squared, the first paper's a cross entropy; colours are foretold as RGB, not as Lab.

    Example:
        >>> method = methods.make_autoencoder(models.make_encoder("resnet18", stem="cifar"), corruption="gray")
        >>> params, _ = jax.eval_shape(method.init, key, jnp.zeros((2, 1, 32, 32, 3)))
        >>> sorted(params)
        ['decoder', 'encoder']
    """
    base.check_choice(corruption, CORRUPTIONS, name="corruption")
    base.check_number("corruption_level", corruption_level, "Use 0.25.")
    base.check_number("decoder_width", decoder_width, "Use 128.", least=4)
    widths = (decoder_width, decoder_width // 2, decoder_width // 4)
    norm = getattr(encoder, "norm", None)
    num_parts = norm.num_parts if isinstance(norm, norms.Norm) else 1

    def make_net(size: int) -> parts.Parts:
        decoder = decoder_lib.Decoder(size, widths, dtype, num_parts=num_parts)
        return parts.make_parts(encoder, {"decoder": parts.Part(decoder, lambda width: (2, width))})

    def init(key: Array, views: Array) -> tuple[PyTree, PyTree]:
        like = jax.ShapeDtypeStruct((2, *views.shape[2:]), views.dtype)
        params, batch_stats = make_net(views.shape[2]).init(key, like)
        return params, {"batch_stats": batch_stats}

    def embed(
        params: PyTree, method_state: PyTree, views: Array, batch: base.Batch, key: Array
    ) -> tuple[PyTree, PyTree]:
        net, images = make_net(views.shape[2]), views[:, 0]
        shown = _corrupt(tiles.row_keys(key, batch), images, kind=corruption, level=corruption_level)
        h, batch_stats = net.encode((params, method_state["batch_stats"]), shown[:, None])
        made, batch_stats = net.run("decoder", (params, batch_stats), h[:, 0])
        errors = jnp.mean(jnp.square(made - images), axis=(1, 2, 3))
        return {"errors": errors, "h": jax.lax.stop_gradient(h[:, 0])}, {"batch_stats": batch_stats}

    def loss(outputs: PyTree, method_state: PyTree) -> tuple[Array, tuple[PyTree, base.Metrics]]:
        spread = losses.projection_spread(outputs["h"][:, None])
        return jnp.mean(outputs["errors"]), (method_state, {"projection_spread": spread})

    return base.Method(init=init, embed=embed, loss=loss, update=base.keep, num_views=1)


def _corrupt(keys: Array, images: Array, *, kind: str, level: float) -> Array:
    """Images [B, h, w, 3] as the encoder sees them, each damaged by its own of `keys` [B]."""
    if kind == "noise":
        noise = jax.vmap(lambda k: jax.random.normal(k, images.shape[1:], images.dtype))(keys)
        return images + level * noise
    if kind == "mask":
        kept = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:3]) >= level)(keys)
        return images * kept[..., None].astype(images.dtype)
    if kind == "gray":
        gray = jnp.sum(images * jnp.asarray(_LUMA, images.dtype), axis=-1, keepdims=True)
        return jnp.broadcast_to(gray, images.shape)
    return images
