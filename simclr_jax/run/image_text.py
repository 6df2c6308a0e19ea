"""The two towers of an image-text run, to project pictures and sentences into one space, and recall while training."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from simclr_jax import base, data, models, probes
from simclr_jax.distributed import sharding
from simclr_jax.methods import clip
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, identity, texts
from simclr_jax.run import workdir as workdir_lib

MeasureRecall = Callable[[base.TrainState], dict[str, float]]

_BATCH = 256
_RECALL_AT, _MAX_PICTURES = (1, 5), 1000
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
    tokenizer = texts.open_tokenizer(workdir, config)
    trees = jax.device_get({name: params[name] for name in _OF_TEXTS})
    project = make_project_texts(config)
    return lambda sentences: project(trees, tokenizer.encode(sentences))


def make_project_texts(
    config: Mapping[str, Any], *, mesh: Mesh | None = None
) -> Callable[[base.PyTree, np.ndarray], np.ndarray]:
    """(parameters of texts, tokens int32 [M, L]) -> projections float32 [M, d], on `mesh` if they lie there."""
    section = config["method"]
    names = {key: f"text_{key}" for key in ("width", "num_layers", "num_heads", "attention", "activation")}
    tower = models.make_text_tower(
        vocab_size=config["text"]["vocab_size"],
        length=config["text"]["length"],
        **{key: section[name] for key, name in names.items() if name in section},
    )

    def project(trees: Any, tokens: base.Array) -> base.Array:
        h: Any = tower.apply({"params": trees["text_encoder"]}, tokens)
        return clip.project(h, trees["text_projection"])

    compiled = jax.jit(project, out_shardings=None if mesh is None else sharding.replicated(mesh))

    def project_all(trees: base.PyTree, tokens: np.ndarray) -> np.ndarray:
        size = min(_BATCH, len(tokens))
        rows = [np.minimum(np.arange(start, start + size), len(tokens) - 1) for start in range(0, len(tokens), size)]
        z = np.concatenate([np.asarray(compiled(trees, tokens[part])) for part in rows])
        return z[: len(tokens)]

    return project_all


_OF_TEXTS = ("text_encoder", "text_projection")
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


def project_images(params: Mapping[str, Any], h: np.ndarray) -> np.ndarray:
    """Projections float32 [N, d] of pictures by their representations h [N, D]."""
    return np.asarray(clip.project(jnp.asarray(h), jax.device_get(params["image_projection"])))


def flat_texts(texts: Sequence[Sequence[str]]) -> tuple[list[str], np.ndarray]:
    """All texts of all pictures, one after the other, and int [M], the picture of each."""
    owners = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
    return [text for own in texts for text in own], owners


def make_measure_recall(
    config: Mapping[str, Any], mesh: Mesh, *, test_set: data.ImageSet, tokenizer: str, encode: features.EncodeFn
) -> MeasureRecall:
    """(state) -> `probes.retrieval_recall` at 1 and 5 while a run with texts is trained.

    It is of at most 1,000 evenly spaced pictures of the test split with all of their texts. Nothing compiles before
    its first call. `tokenizer` is what the run keeps of it, `encode` gives the representation.
    """
    count = len(test_set.images)
    rows = np.unique(np.linspace(0, count - 1, min(_MAX_PICTURES, count)).astype(np.int64))
    shown = data.subset(test_set, rows)
    made = config_lib.call(data.make_tokenizer, config, "text", kept=tokenizer)
    sentences, owners = flat_texts(shown.texts)
    tokens = made.encode(sentences)
    project_texts = make_project_texts(config, mesh=mesh)
    project = jax.jit(clip.project, out_shardings=sharding.replicated(mesh))

    def measure(state: base.TrainState) -> dict[str, float]:
        h = encode(features.encoder_variables(state.params, state.method_state), shown)
        image_z = np.asarray(project(h, state.params["image_projection"]))
        text_z = project_texts({name: state.params[name] for name in _OF_TEXTS}, tokens)
        return probes.retrieval_recall(image_z, text_z, owners, ks=_RECALL_AT)

    return measure


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
