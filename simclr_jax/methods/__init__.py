"""Training methods, each a NamedTuple of four pure functions (`base.Method`).

METHODS maps a name to `make_method(encoder, **section_of_the_config) -> base.Method`. `make_classify` gives the logits
of a network that was trained with a classifier.
"""

from collections.abc import Callable, Mapping
from typing import Any

from simclr_jax import base
from simclr_jax.methods import (
    autoencoder,
    barlow_twins,
    blip,
    byol,
    clip,
    coca,
    cpc,
    dcl,
    distill,
    jigsaw,
    moco,
    moco_v3,
    nnclr,
    patch_location,
    pirl,
    queue,
    rotation,
    simclr,
    simclr_v2,
    simsiam,
    sup_con,
    supervised,
    swav,
    vicreg,
)
from simclr_jax.methods.autoencoder import make_autoencoder
from simclr_jax.methods.barlow_twins import make_barlow_twins
from simclr_jax.methods.blip import make_blip
from simclr_jax.methods.byol import make_byol
from simclr_jax.methods.clip import make_clip
from simclr_jax.methods.coca import make_coca
from simclr_jax.methods.cpc import make_cpc
from simclr_jax.methods.dcl import make_dcl, make_dclw
from simclr_jax.methods.distill import Teacher, make_distill, make_teacher
from simclr_jax.methods.jigsaw import make_jigsaw
from simclr_jax.methods.moco import make_moco
from simclr_jax.methods.moco_v3 import make_moco_v3
from simclr_jax.methods.nnclr import make_nnclr
from simclr_jax.methods.patch_location import make_patch_location
from simclr_jax.methods.pirl import make_pirl
from simclr_jax.methods.rotation import make_rotation
from simclr_jax.methods.simclr import make_simclr
from simclr_jax.methods.simclr_v2 import make_simclr_v2
from simclr_jax.methods.simsiam import make_simsiam
from simclr_jax.methods.sup_con import make_sup_con
from simclr_jax.methods.supervised import make_classify, make_supervised
from simclr_jax.methods.swav import make_swav
from simclr_jax.methods.vicreg import make_vicreg

__all__ = [
    "CLASSIFIERS",
    "IMAGE_TEXT",
    "METHODS",
    "ONE_VIEW",
    "SIMCLR_HEADS",
    "Teacher",
    "check_batch",
    "make_autoencoder",
    "make_barlow_twins",
    "make_blip",
    "make_byol",
    "make_classify",
    "make_clip",
    "make_coca",
    "make_cpc",
    "make_dcl",
    "make_dclw",
    "make_distill",
    "make_jigsaw",
    "make_moco",
    "make_moco_v3",
    "make_nnclr",
    "make_patch_location",
    "make_pirl",
    "make_rotation",
    "make_simclr",
    "make_simclr_v2",
    "make_simsiam",
    "make_sup_con",
    "make_supervised",
    "make_swav",
    "make_teacher",
    "make_vicreg",
    "uninformed_loss",
]

METHODS: dict[str, Callable[..., base.Method]] = {
    "simclr": simclr.make_simclr,
    "simclr_v2": simclr_v2.make_simclr_v2,
    "byol": byol.make_byol,
    "moco": moco.make_moco,
    "moco_v3": moco_v3.make_moco_v3,
    "nnclr": nnclr.make_nnclr,
    "simsiam": simsiam.make_simsiam,
    "supervised": supervised.make_supervised,
    "distill": distill.make_distill,
    "barlow_twins": barlow_twins.make_barlow_twins,
    "vicreg": vicreg.make_vicreg,
    "swav": swav.make_swav,
    "sup_con": sup_con.make_sup_con,
    "dcl": dcl.make_dcl,
    "dclw": dcl.make_dclw,
    "clip": clip.make_clip,
    "coca": coca.make_coca,
    "blip": blip.make_blip,
    "rotation": rotation.make_rotation,
    "patch_location": patch_location.make_patch_location,
    "jigsaw": jigsaw.make_jigsaw,
    "autoencoder": autoencoder.make_autoencoder,
    "cpc": cpc.make_cpc,
    "pirl": pirl.make_pirl,
}

# The loss of equal embeddings, from the settings of a method, the batch's size and the number of classes; None where
# equal embeddings have the lowest loss of all, or one that the data decide: the metric "projection_spread" tells.
_UNINFORMED: dict[str, Callable[..., float | None] | None] = {
    "simclr": simclr.uninformed_loss,
    "simclr_v2": simclr_v2.uninformed_loss,
    "byol": None,
    "moco": moco.uninformed_loss,
    "moco_v3": moco_v3.uninformed_loss,
    "nnclr": nnclr.uninformed_loss,
    "simsiam": None,
    "supervised": supervised.uninformed_loss,
    "distill": distill.uninformed_loss,
    "barlow_twins": barlow_twins.uninformed_loss,
    "vicreg": vicreg.uninformed_loss,
    "swav": swav.uninformed_loss,
    "sup_con": sup_con.uninformed_loss,
    "dcl": dcl.uninformed_loss,
    "dclw": dcl.uninformed_loss,
    "clip": clip.uninformed_loss,
    "coca": None,
    "blip": None,
    "rotation": rotation.uninformed_loss,
    "patch_location": patch_location.uninformed_loss,
    "jigsaw": jigsaw.uninformed_loss,
    "autoencoder": None,
    "cpc": cpc.uninformed_loss,
    "pirl": pirl.uninformed_loss,
}


# Methods whose projection head is `heads.ProjectionHead`, of which fine-tuning may keep layers.
SIMCLR_HEADS = ("simclr", "simclr_v2", "supervised")
IMAGE_TEXT = ("clip", "coca", "blip")  # any number of views, usually one; the other side is a text
CLASSIFIERS = ("supervised", "distill")  # any number of views; a class apiece is all they tell apart
# Pretext tasks, which make what they compare out of one view of an image.
ONE_VIEW = ("rotation", "patch_location", "jigsaw", "autoencoder", "cpc")


def uninformed_loss(section: Mapping[str, Any], *, batch_size: int, num_classes: int) -> float | None:
    """The loss of a network whose embeddings are all the same, for the config's section of a method with its name.

    A run that stays at it learns nothing. For "swav" it is the least that such a network can have, ln K. None for
    methods without negatives, in which equal embeddings have the best loss of all, for autoencoders, and for "pirl"
    with its objective "nce", "coca" and "blip"; they log "projection_spread", which is 0 then. None also for a
    classifier of data without classes.

    Args:
        section: settings of the method and "name"; what is not there has the method's default.
        batch_size: B, images.
        num_classes: C, read for methods with a classifier; of "distill" the teacher's.

    Example:
        >>> round(methods.uninformed_loss({"name": "supervised"}, batch_size=256, num_classes=10), 3)
        2.303
    """
    announce = _UNINFORMED[section["name"]]
    has_classifier = section["name"] in CLASSIFIERS or section.get("supervised_weight", 0) > 0
    if announce is None or (has_classifier and num_classes < 2):
        return None
    return announce(**section, batch_size=batch_size, num_classes=num_classes)


def check_batch(
    section: Mapping[str, Any], *, batch_size: int, num_views: int, num_small_views: int = 0, num_chunks: int = 1
) -> None:
    """Raises base.InputError for a batch that the method of the config's section `method` cannot learn from.

    Example:
        >>> methods.check_batch({"name": "simclr"}, batch_size=256, num_views=2)
    """
    if num_small_views and section["name"] != "swav":
        raise base.InputError(
            f"augment.num_small_views must be 0 for the method {section['name']}; got {num_small_views}. Small crops "
            "are for swav."
        )
    if section["name"] in CLASSIFIERS:
        return
    needed, why = (1, "makes its task from one view") if section["name"] in ONE_VIEW else (2, "compares two views")
    if num_views != needed and section["name"] not in IMAGE_TEXT:
        raise base.InputError(
            f"augment.num_views must be {needed} for the method {section['name']}, which {why} of every image; "
            f"got {num_views}."
        )
    if "queue_length" in section and section["name"] != "swav":  # whose queue takes a part of a batch, too
        queue.check_batch(section["queue_length"], batch_size)
    if batch_size // num_chunks % section.get("bn_splits", 1):
        chunks = f" in {num_chunks} chunks" * (num_chunks > 1)
        raise base.InputError(
            "method.bn_splits must divide train.batch_size, and the images of a chunk where train.num_chunks is above "
            f"1; got {section['bn_splits']} and {batch_size}{chunks}. Use 8 with a batch or chunk of 256."
        )
    if batch_size < 2:
        raise base.InputError(
            f"train.batch_size must be at least 2 for the method {section['name']}: an image alone has nothing to be "
            f"told from; got {batch_size}. Use for example 128."
        )
