"""Settings with which tests build any method: its own defaults, but for widths and lengths that would take long."""

import inspect
from typing import Any

from simclr_jax.methods import METHODS, make_teacher
from tests.methods import steps

# What a method must be told, and what would be large: heads of thousands of units, queues.
_NEEDED = {"num_classes": 3, "num_steps": 10, "num_examples": 12, "vocab_size": 20, "text_length": 5}
_SMALL = {
    **{"proj_hidden_dim": 16, "proj_out_dim": 8, "pred_hidden_dim": 16},
    # In groups BatchNorm would depend on the order of the images.
    **{"text_width": 8, "text_num_layers": 1, "text_num_heads": 2, "caption_num_layers": 1, "memory_length": 2},
    **{"num_prototypes": 6, "freeze_prototypes_steps": 0, "queue_length": 64, "bn_splits": 1},
    **{"num_permutations": 8, "tile_dim": 8, "decoder_width": 8, "num_negatives": 16},
    **{"grid_size": 3, "rows_ahead": (1, 2), "context_dim": 8, "num_context_blocks": 1},
}
# What the config's section `teacher` holds once the teacher's run has been read.
TEACHER = {
    "encoder": {"name": "resnet10", "width_multiplier": 1 / 16, "stem": "cifar"},
    "head": {"ft_proj_selector": 0},
    "num_classes": 10,
}
_AS_THEY_ARE = ("simclr", "supervised")


def small(name: str) -> dict[str, Any]:
    """The settings of the config's section for a small form of the method `name`."""
    known = inspect.signature(METHODS[name]).parameters
    return {} if name in _AS_THEY_ARE else {key: value for key, value in _SMALL.items() if key in known}


def arguments(name: str, dtype: str = "float32") -> dict[str, Any]:
    """`small`, and what the program that builds a method adds."""
    known = inspect.signature(METHODS[name]).parameters
    needed = {**_NEEDED, "teacher": make_teacher(steps.TinyEncoder(4), num_classes=3, dtype=dtype)}
    needed["dtype"] = dtype
    return {**small(name), **{key: value for key, value in needed.items() if key in known}}
