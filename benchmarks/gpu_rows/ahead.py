"""What XLA's own compiler says of the rows' full-size programs for a GPU that is not here: memory and traffic, no time.

Needs the extra aot-gpu; `python benchmarks/gpu_suite.py --predict` prints the table of docs/gpu.md. The compiler
refuses what does not fit.
"""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from benchmarks.gpu_rows import figures, settings, steps
from simclr_jax import augment
from simclr_jax.distributed import sharding
from simclr_jax.planning import hardware, hlo

_JOB = figures.Job(tiny=False)


def predict(kind: str = "h200") -> Iterator[str]:
    """The lines of the table, one program after the other: minutes on two cores."""
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        kind, platform="cuda", topology=hardware.topology(kind, 1), target_config=hardware.description(kind)
    )
    mesh = sharding.make_mesh(devices=described.devices)
    yield from ("| program | memory | MB a view |", "| --- | --- | --- |")
    for words, name, config, meanwhile in _programs():
        with meanwhile:
            compiled = steps.lower(name, config, _JOB, mesh=mesh)[1].compile()
        # Several updates in one dispatch are a loop whose length is an argument: it counts as one update.
        views = config["augment"]["num_views"] * config["train"]["batch_size"]
        traffic = hlo.summarise(compiled.as_text()).program_bytes / views
        yield f"| {words} | {figures.planned_bytes(compiled) / 1e9:.1f} GB | {traffic / 1e6:.3g} |"


def _programs() -> Iterator[tuple[str, str, settings.Config, Any]]:
    """(words, name of the config, the config, what must hold while the program is made)."""
    nothing = contextlib.nullcontext()
    whole = _load(settings.RESNET50, batch_size=steps.RESNET50_BATCH)
    yield "`resnet50`", settings.RESNET50, whole, nothing
    apart = _load(settings.RESNET50, batch_size=steps.RESNET50_BATCH, fused_conv_bn=False)
    yield "`folded`: BatchNorm apart", settings.RESNET50, apart, nothing
    same = _load(settings.RESNET50, batch_size=steps.RESNET50_BATCH, deterministic=True)
    yield "`deterministic`, ResNet-50", settings.RESNET50, same, nothing
    corners = mock.patch.object(augment, "make_simclr_views", steps.corners)
    yield "`shares`: corners for views", settings.RESNET50, whole, corners
    frozen = _load(settings.RESNET50, batch_size=steps.RESNET50_BATCH)
    frozen["encoder"]["norm"] = "frozen"
    yield "`shares`: BatchNorm frozen (not folded)", settings.RESNET50, frozen, nothing
    chunked = _load(settings.RESNET50, batch_size=steps.CHUNKED_BATCH, num_chunks=steps.CHUNKED_COUNT)
    yield f"`chunked` ({steps.CHUNKED_COUNT} chunks)", settings.RESNET50, chunked, nothing
    for batch_size in steps.CIFAR_BATCHES:
        small = _load(settings.CIFAR, batch_size=batch_size)
        yield f"`cifar`, batch {batch_size}", settings.CIFAR, small, nothing


def _load(name: str, **train: Any) -> settings.Config:
    """The row's config; the views choose their loop by the backend of the process, which is not the GPU's."""
    config = settings.load(name, _JOB, **train)
    config["augment"]["loop"] = "vmap"
    return config
