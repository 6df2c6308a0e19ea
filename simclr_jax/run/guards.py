"""Whether the scores of a run mean what they say: nothing of the test in the training, and an encoder at rest."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from simclr_jax import base, data, probes
from simclr_jax.run import config as config_lib
from simclr_jax.run import features, frozen, identity, splits
from simclr_jax.run import workdir as workdir_lib

# The same rows in another batch: only the order of sums may differ.
_TOLERANCE = 1e-3


def encoder_at_rest(
    encode: features.EncodeFn, variables: base.PyTree, image_set: data.ImageSet, *, h: np.ndarray, batch_size: int
) -> bool:
    """Whether the features of an image do not depend on the images beside it: BatchNorm is in its evaluation mode.

    Evenly spaced images, one batch of them, are encoded together and compared with what they gave among others.
    """
    count = min(batch_size, len(image_set.images))
    rows = np.unique(np.linspace(0, len(image_set.images) - 1, count).astype(np.int64))
    again = encode(variables, data.subset(image_set, rows))
    size = float(np.abs(h[rows]).max(initial=0.0))
    return bool(np.all(np.abs(again - h[rows]) <= _TOLERANCE * max(size, 1e-12)))


def shared_with_pretraining(config: Mapping[str, Any], test_set: data.ImageSet) -> int:
    """How many of these test images, by their names, the run that this one started from was trained on.

    0 where that cannot be told: no such run, it is gone, or its data have other names (TFDS numbers each split).
    """
    workdir = config["init"]["workdir"]
    if workdir is None or not workdir_lib.has_config(pathlib.Path(workdir)):
        return 0
    theirs = identity.read_config(pathlib.Path(workdir))
    name = theirs["data"]["name"]
    if name != config["data"]["name"] or not data.ids_tell_images(name):
        return 0
    if theirs["split"]["train"] == config["split"]["train"]:
        return 0  # told by the run's own splits
    trained_on = config_lib.call(data.load_split, theirs, "data", split=theirs["split"]["train"])
    return len(set(trained_on.ids) & set(test_set.ids))


def encoder_was_frozen(
    workdir: pathlib.Path, config: Mapping[str, Any], *, params: base.PyTree, method_state: base.PyTree
) -> bool | None:
    """Whether a run with `train.freeze_encoder` left its encoder as it was, bit for bit; None where nothing tells.

    The BatchNorm statistics count unless `encoder.norm` lets them move.
    """
    before = frozen.read_start(workdir)
    if not config["train"]["freeze_encoder"] or before is None:
        return None
    after = frozen.encoder_digests(params, method_state)
    kinds = ("weights",) if config["encoder"]["norm"] == "batch" else ("weights", "statistics")
    return all(before[kind] == after[kind] for kind in kinds)


def sentences(found: Mapping[str, Any], both: splits.Splits) -> list[str]:
    """What the guards found, for people; empty if all is well.

    Args:
        found: "batch_norm_at_rest", "encoder_frozen" (both may be None), "near_duplicates" (pairs as `probes` gives
            them), "shared_with_pretraining", "best_on_test".
        both: the splits that were scored.
    """
    said = []
    if found["batch_norm_at_rest"] is False:
        said.append(
            "The features of an image depend on the images beside it: BatchNorm is not in its evaluation mode, and no "
            "score here can be compared."
        )
    if found["encoder_frozen"] is False:
        said.append(
            "The encoder was to be frozen and has changed: the classifier's score is not one of linear evaluation."
        )
    if found["shared_with_pretraining"]:
        said.append(
            f"{found['shared_with_pretraining']} of these test images were in the training split of the run that this "
            "one started from."
        )
    pairs = found["near_duplicates"]
    if len(pairs) and both.test_set is not None:
        test, train = (int(row) for row in pairs[0])
        said.append(
            f"{len(pairs)} of {len(both.test_set.images)} test images have a near-duplicate among the training images, "
            f"the first {base.one_line(both.test_set.ids[test], 60)}, which is like "
            f"{base.one_line(both.train_set.ids[train], 60)}: scores flatter."
        )
    if found["best_on_test"]:
        said.append(
            "This checkpoint was chosen by its kNN on the test split: the protocols say best-on-test, and the scores "
            "flatter."
        )
    return said


def protocol_of_classifier(config: Mapping[str, Any]) -> str:
    """The name of the protocol that the classifier of a run was trained by, see `probes.PROTOCOLS`."""
    if config["method"]["name"] != "supervised":
        return probes.protocol_name("online")
    epochs = f"{config['train']['num_epochs']:g}"
    if config["train"]["freeze_encoder"]:
        mode = {"batch": "batch-bn", "frozen": "frozen-bn", "group": "no-bn"}[config["encoder"]["norm"]]
        return probes.protocol_name("linear_sgd", epochs=epochs, batch_norm=mode)
    if config["init"]["workdir"] is None:
        return probes.protocol_name("supervised", epochs=epochs)
    return probes.protocol_name("finetune", epochs=epochs, selector=config["method"]["ft_proj_selector"])
