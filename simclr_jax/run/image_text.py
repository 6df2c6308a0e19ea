"""The two towers of a trained image-text run, to project pictures and sentences into one space."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base, data, models
from simclr_jax.methods import clip
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, identity, texts
from simclr_jax.run import workdir as workdir_lib

_BATCH = 256
TEMPLATES = ("a photo of a {}.", "a picture of the {}.", "a close-up photo of a {}.", "a {}.")


def has_texts(params: Mapping[str, Any]) -> bool:
    """Whether these are the parameters of a method with a text tower."""
    return "text_encoder" in params


def make_embed_texts(workdir: pathlib.Path, config: Mapping[str, Any], params: Mapping[str, Any]) -> "EmbedTexts":
    """(sentences) -> their projections float32 [M, d], by the text tower and the tokenizer of a run.

    Raises:
        base.InputError: the run has no text tower, or its tokenizer is missing.
    """
    if not has_texts(params):
        raise base.InputError(
            f"Texts are for runs of the method clip; {workdir} is of {config['method']['name']}. Use another run."
        )
    section = config["method"]
    names = {key: f"text_{key}" for key in ("width", "num_layers", "num_heads", "attention", "activation")}
    tower = models.make_text_tower(
        vocab_size=config["text"]["vocab_size"],
        length=config["text"]["length"],
        **{key: section[name] for key, name in names.items() if name in section},
    )
    tokenizer = texts.open_tokenizer(workdir, config)
    trees = jax.device_get({name: params[name] for name in ("text_encoder", "text_projection")})

    @jax.jit
    def project(trees: Any, tokens: base.Array) -> base.Array:
        h: Any = tower.apply({"params": trees["text_encoder"]}, tokens)
        return clip.project(h, trees["text_projection"])

    def embed(sentences: Sequence[str]) -> np.ndarray:
        tokens = tokenizer.encode(sentences)
        size = min(_BATCH, len(tokens))
        rows = [np.minimum(np.arange(start, start + size), len(tokens) - 1) for start in range(0, len(tokens), size)]
        z = np.concatenate([np.asarray(project(trees, tokens[part])) for part in rows])
        return z[: len(tokens)]

    return embed


EmbedTexts = Any  # (sentences) -> float32 [M, d]


def load_embed_texts(workdir: pathlib.Path, *, step: int) -> EmbedTexts:
    """`make_embed_texts` of the run in `workdir` at a step.

    Raises:
        base.InputError: as for `make_embed_texts`, or there is no such run or checkpoint.
    """
    config = identity.read_config(workdir)
    _, params, _ = features.load_variables(workdir, which=str(step))
    return make_embed_texts(workdir, config, params)


def embed_words(meta: Mapping[str, Any], sentences: Sequence[str]) -> np.ndarray:
    """Projections float32 [M, d] of sentences by the text tower of the run that made features, whose `meta` this is.

    Raises:
        base.InputError: the features are no projections of a run with texts, or the run is not there any more.
    """
    made_by = meta.get("encoder", {})
    folder = pathlib.Path(made_by.get("source", ""))
    if meta["layer"] not in ("1", "z") or not workdir_lib.has_config(folder):
        raise base.InputError(
            f"--text compares words with projections of pictures; the features are of layer {meta['layer']} of "
            f"{folder}. Make them with: simclr-jax embed --workdir=RUN --layer=z, of a run of the method clip."
        )
    projections: np.ndarray = load_embed_texts(folder, step=made_by["step"])(list(sentences))
    return projections


def make_embed_images(config: Mapping[str, Any], params: Mapping[str, Any]) -> Any:
    """(variables of the encoder, image_set) -> projections float32 [N, d] of the pictures as they are evaluated."""
    encode = features.make_encode(
        config_lib.call(models.make_encoder, config, "encoder"), **features.evaluation_settings(config)
    )
    head = jax.device_get(params["image_projection"])

    def embed(variables: base.PyTree, image_set: data.ImageSet) -> np.ndarray:
        return np.asarray(clip.project(jnp.asarray(encode(variables, image_set)), head))

    return embed


def class_sentences(class_names: Sequence[str], templates: Sequence[str] = TEMPLATES) -> list[str]:
    """Every class in every template, the templates of a class one after the other; names of folders become words.

    Raises:
        base.InputError: a template has no {}.
    """
    for template in templates:
        if "{}" not in template:
            raise base.InputError(
                f"A template holds {{}} where the class goes; got {template!r}. Write 'a photo of a {{}}.'"
            )
    words = [name.replace("_", " ").replace("-", " ").strip() for name in class_names]
    return [template.replace("{}", word) for word in words for template in templates]
