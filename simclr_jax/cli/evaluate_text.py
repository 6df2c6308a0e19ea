"""What `simclr-jax evaluate` measures of a run that reads texts: retrieval both ways, and classes by their names."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax import base, probes
from simclr_jax.run import checks as checks_lib
from simclr_jax.run import image_text, progress, texts


def read_templates(path: str | None) -> tuple[str, ...]:
    """The templates of a file, one a line; without one `image_text.TEMPLATES`.

    Raises:
        base.InputError: the file cannot be read or is empty.
    """
    if path is None:
        return image_text.TEMPLATES
    try:
        lines = [line.strip() for line in pathlib.Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeError) as error:
        raise base.InputError(f"--templates must be a text file; {path}: {base.one_line(error, 80)}.") from error
    found = tuple(line for line in lines if line)
    if not found:
        raise base.InputError(f"--templates must hold a template a line; {path} is empty. Write: a photo of a {{}}.")
    return found


def measure(subject: checks_lib.Subject, templates: tuple[str, ...], *, test_h: np.ndarray | None) -> dict[str, Any]:
    """{"retrieval", "zero_shot"}: of the test split, whose representations are `test_h`, what texts and classes allow.

    {} for runs without texts, and without a test split.

    A run without a tokenizer, of converted weights, is measured without texts, and a line says so.

    "retrieval" holds the recalls of `probes.retrieval_recall`, "chance" those of `probes.chance_recall`, and the
    numbers of images and texts. "zero_shot" holds "top_1", "top_5", "chance", the templates and the number of images.
    Both have "protocols": the name of a score -> that of its protocol.
    """
    test_set = subject.both.test_set
    if not image_text.has_texts(subject.params) or test_set is None or test_h is None:
        return {}
    has_classes = bool(test_set.class_names) and bool((test_set.labels >= 0).any())
    if not test_set.texts and not has_classes:
        return {}
    if texts.read_kept(subject.folder) is None:
        progress.say(f"Texts are left out: {subject.folder} has no tokenizer (simclr-jax convert --tokenizer=FILE).")
        return {}
    image_z = image_text.project_images(subject.params, test_h)
    embed_texts = image_text.make_embed_texts(subject.folder, subject.config, subject.params)
    found: dict[str, Any] = {}
    if test_set.texts:
        sentences, owners = image_text.flat_texts(test_set.texts)
        text_z = embed_texts(sentences)
        recalls, chance = probes.retrieval_recall(image_z, text_z, owners), probes.chance_recall(owners)
        counts = {"num_images": len(image_z), "num_texts": len(text_z)}
        found["retrieval"] = {**recalls, "chance": chance, **counts, "protocols": _retrieval_protocols(recalls)}
    if has_classes:
        names = test_set.class_names
        of_classes = embed_texts(image_text.class_sentences(names, templates))
        classes = probes.class_vectors(of_classes.reshape(len(names), len(templates), -1))
        scores = probes.zero_shot_accuracy(image_z, test_set.labels, classes)
        num_images = int((test_set.labels >= 0).sum())
        told = {"chance": 1 / len(names), "templates": list(templates), "num_images": num_images}
        which = probes.templates_name(templates)
        ranks = {name: name.removeprefix("top_") for name in scores}
        protocols = {name: probes.protocol_name("zero_shot", k=k, templates=which) for name, k in ranks.items()}
        found["zero_shot"] = {**scores, **told, "protocols": protocols}
    return found if not subject.best_on_test else {name: _best_on_test(one) for name, one in found.items()}


def _retrieval_protocols(recalls: Mapping[str, float]) -> dict[str, str]:
    parts = {name: name.split("_recall_") for name in recalls}
    return {name: probes.protocol_name("retrieval", way=way.replace("_", "-"), k=k) for name, (way, k) in parts.items()}


def _best_on_test(one: Mapping[str, Any]) -> dict[str, Any]:
    protocols = {name: probes.best_on_test(protocol) for name, protocol in one["protocols"].items()}
    return {**one, "protocols": protocols}


def lines(found: Mapping[str, Any]) -> list[str]:
    """`measure` as text."""
    text = []
    retrieval = found.get("retrieval")
    if retrieval is not None:
        text.append(f"retrieval of {retrieval['num_images']} images and {retrieval['num_texts']} texts, recall in %")
        text.append(f"{'':<18}" + "".join(f"{f'at {k}':>16}" for k in (1, 5, 10)))
        for way in ("image_to_text", "text_to_image"):
            names = [f"{way}_recall_{k}" for k in (1, 5, 10)]
            cells = (f"{100 * retrieval[name]:.1f} ({100 * retrieval['chance'][name]:.1f})" for name in names)
            text.append(f"{way.replace('_', ' '):<18}" + "".join(f"{cell:>16}" for cell in cells))
        text.append("in brackets: by chance")
    zero_shot = found.get("zero_shot")
    if zero_shot is not None:
        shown = [f"{name} {100 * zero_shot[name]:.1f}" for name in ("top_1", "top_5") if name in zero_shot]
        guess = f"guessing {100 * zero_shot['chance']:.1f}"
        templates = f"{len(zero_shot['templates'])} templates"
        text.append(f"zero-shot  {'  '.join(shown)}  {guess}  on {zero_shot['num_images']} images, {templates}")
    return text
