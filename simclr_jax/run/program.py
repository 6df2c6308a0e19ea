"""From a config, a mesh and the shape of the data to the compiled training program.

What belongs here: everything of a training step that can be made without reading data and without running anything, so
that `train` runs, and `aot` compiles for machines that are not here, the same program.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from simclr_jax import augment, base, data, methods, models, optim, train_step
from simclr_jax.data import resident
from simclr_jax.distributed import sharding
from simclr_jax.run import config as config_lib
from simclr_jax.run import frozen, input_pipeline


class Program(NamedTuple):
    """The functions of a run.

    encoder: the backbone. method: the training method.
    init: () -> the state before the first update; pure. placement: where every array of it lives.
    train_steps: the jitted dispatch of `train_step.Dispatch`; its state is donated.
    num_steps: updates of the whole run.
    """

    encoder: nn.Module
    method: base.Method
    init: Callable[[], base.TrainState]
    placement: base.PyTree
    train_steps: train_step.Dispatch
    num_steps: int


class DataShape(NamedTuple):
    """What a program must know of the training split.

    num_examples: images. num_classes: 0 if they have no classes.
    canvas: (height, width) of every image, pixels; (V, size, size) where the host cuts the views and sends crops.
    is_streamed: whether the rows are sent step by step; otherwise the split is on every device.
    epoch_size: images of an epoch; None: every example once.
    texts: (most texts of an example, tokens of each); None for data without texts.
    """

    num_examples: int
    num_classes: int
    canvas: tuple[int, ...]
    is_streamed: bool
    epoch_size: int | None = None
    texts: tuple[int, int] | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the host has cut the views."""
        return len(self.canvas) == 3


def check_sections(config: Mapping[str, Any], mesh: Mesh) -> None:
    """Builds all that can be wrong in the config before data, which may take minutes, are read.

    Raises:
        base.InputError: a value of the sections train, encoder, method, augment or optimizer is not valid.
    """
    train = config["train"]
    sharding.check_batch_size(train["batch_size"], mesh)
    sharding.check_parameter_sharding(train["parameter_sharding"])
    train_step.check_chunks(train["batch_size"], train_step.Chunks(train["num_chunks"], mesh.size))
    make_method(make_encoder(config, mesh), config, mesh, num_classes=2)
    config_lib.call(augment.make_simclr_views, config, "augment")
    views = config["augment"]["num_views"]
    small = config["augment"]["num_small_views"]
    numbers = {"batch_size": train["batch_size"], "num_chunks": train["num_chunks"]}
    methods.check_batch(config["method"], **numbers, num_views=views, num_small_views=small)
    config_lib.call(optim.make_optimizer, config, "optimizer", learning_rate=0.0)
    _check_constant_rate(config["optimizer"], config.get("schedule", {}))


def _check_constant_rate(optimizer: Mapping[str, Any], schedule: Mapping[str, Any]) -> None:
    """Raises InputError where a module would keep the rate with which a warm-up begins, which is 0 or near it."""
    # What a section lacks, is said where it is used.
    module, epochs = optimizer.get("constant_rate_for"), schedule.get("warmup_epochs")
    if module and epochs:
        raise base.InputError(
            "optimizer.constant_rate_for keeps the rate of the first update and needs a schedule without warm-up; got "
            f"{module} and schedule.warmup_epochs {epochs:g}. Set schedule.warmup_epochs to 0.0, or leave "
            "optimizer.constant_rate_for empty."
        )


def make_program(
    config: Mapping[str, Any],
    mesh: Mesh,
    *,
    shape: DataShape,
    steps_per_dispatch: int,
    seed: int,
    skip_nonfinite: bool = False,
) -> Program:
    """The program of the run that `config` describes on `mesh`; nothing is computed and no device is touched.

    `skip_nonfinite`: see `train_step.skip_nonfinite`.

    Raises:
        base.InputError: a value of the config is not valid.
    """
    check_sections(config, mesh)
    train = config["train"]
    encoder = make_encoder(config, mesh)
    sizes = run_length(config, num_examples=shape.epoch_size or shape.num_examples)
    schedule = config_lib.call(optim.make_schedule, config, "schedule", **sizes)  # checks the sizes
    num_steps = optim.num_train_steps(**sizes)
    counts = {"num_classes": shape.num_classes, "num_steps": num_steps, "num_examples": shape.num_examples}
    method = make_method(encoder, config, mesh, **counts)
    tx = config_lib.call(optim.make_optimizer, config, "optimizer", learning_rate=schedule)
    method, tx = frozen.freeze(method, tx, whole=train["freeze_encoder"], modules=frozen.still_modules(encoder))
    load_views = _make_load_views(config, mesh, shape)
    chunks = train_step.Chunks(train["num_chunks"], mesh.size, shape.is_streamed)
    collected = sharding.collected(method, mesh)
    step = train_step.make_train_step(collected, tx, load_views, schedule=schedule, chunks=chunks)
    step = train_step.skip_nonfinite(step) if skip_nonfinite else step
    dispatch = train_step.repeat_steps if steps_per_dispatch > 1 else train_step.single_step

    def init() -> base.TrainState:
        return train_step.init_state(method, tx, jax.random.key(seed), views_shape=views_shape(config))

    placement = sharding.state_placement(mesh, jax.eval_shape(init), how=train["parameter_sharding"])
    return Program(
        encoder=encoder,
        method=method,
        init=init,
        placement=placement,
        train_steps=jax.jit(
            dispatch(step),
            donate_argnums=0,
            out_shardings=(placement, sharding.replicated(mesh)),
            compiler_options=compiler_options(config, platform=base.platform(mesh)),
        ),
        num_steps=num_steps,
    )


def _make_load_views(config: Mapping[str, Any], mesh: Mesh, shape: DataShape) -> train_step.LoadViews:
    make_views = make_augmentation(config, mesh, is_cut=shape.is_cut)
    load_batch = input_pipeline.sent_rows if shape.is_streamed else resident.gather_batch
    load_views = train_step.make_load_views(load_batch, make_views)
    return sharding.map_rows(load_views, mesh, row_args=(False, shape.is_streamed, True, True))


def make_encoder(config: Mapping[str, Any], mesh: Mesh) -> nn.Module:
    """The backbone that the config's section `encoder` describes, its BatchNorm grouped as `train.bn_group` says.

    Raises:
        base.InputError: a value of the section is not valid.
    """
    groups = sharding.num_groups(mesh, config["train"]["bn_group"])
    return config_lib.call(
        models.make_encoder,
        config,
        "encoder",
        bn_groups=groups,
        bn_parts=mesh.size,
        fused_conv_bn=fuses_conv_bn(config, platform=base.platform(mesh)),
    )


def make_augmentation(config: Mapping[str, Any], mesh: Mesh, *, is_cut: bool = False) -> base.MakeViews:
    """The augmentation of the config's section `augment`; its `loop` "auto" is what suits the devices of `mesh`.

    With `is_cut` what is left of it for crops that the host has cut.

    Raises:
        base.InputError: a value of the section is not valid.
    """
    section = dict(config["augment"])
    if section.get("loop", "auto") == "auto":
        section["loop"] = "map" if base.platform(mesh) == "cpu" else "vmap"
    views = config_lib.call(augment.make_simclr_views, {**config, "augment": section}, "augment")
    return augment.make_views_of_crops(**section) if is_cut else views


def views_shape(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """The shape of the views of two images, as `train_step.init_state` takes it."""
    return augment.views_shape(augment.make_recipe(**config["augment"]))


def fuses_conv_bn(config: Mapping[str, Any], *, platform: str) -> bool:
    """Whether bfloat16 BatchNorm takes the forms of `models.fused_conv_bn`, which pay on GPUs alone."""
    return platform == "gpu" and bool(config["train"]["fused_conv_bn"])


def compiler_options(config: Mapping[str, Any], *, platform: str) -> dict[str, bool] | None:
    """XLA's options for the program: with `train.deterministic`, operations that give the same bits every time.

    On a GPU XLA otherwise times several algorithms for a product or convolution and may choose another one in the next
    run. CPUs and TPUs need no asking. The program itself holds nothing whose order of sums is left open.
    """
    return {"xla_gpu_deterministic_ops": True} if platform == "gpu" and config["train"]["deterministic"] else None


def abstract_arguments(
    program: Program, mesh: Mesh, *, shape: DataShape, batch_size: int, steps_per_dispatch: int
) -> tuple[Any, ...]:
    """Shapes, dtypes and placements of the arguments of `program.train_steps`, to lower it without arrays."""
    whole, rows = sharding.replicated(mesh), sharding.rows(mesh)
    count, placed = (batch_size, rows) if shape.is_streamed else (shape.num_examples, whole)
    struct: Any = jax.ShapeDtypeStruct
    source = resident.SplitArrays(
        images=struct((count, *shape.canvas, 3), jnp.uint8, sharding=placed),
        sizes=struct((count, 2), jnp.int32, sharding=placed),
        labels=struct((count,), jnp.int32, sharding=placed),
        texts=None if shape.texts is None else struct((count, *shape.texts), jnp.int32, sharding=placed),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
        jax.tree.map(
            lambda leaf, placed: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed),
            jax.eval_shape(program.init),
            program.placement,
        ),
        jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole),
        source,
        jax.ShapeDtypeStruct((steps_per_dispatch, batch_size), jnp.int32, sharding=sharding.rows(mesh, axis=1)),
        jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    )


def run_length(config: Mapping[str, Any], *, num_examples: int) -> dict[str, Any]:
    """What the number of steps and the schedule are computed from; `num_examples` are those of an epoch."""
    train = config["train"]
    return {"num_examples": num_examples, "batch_size": train["batch_size"], "num_epochs": train["num_epochs"]}


def make_method(
    encoder: nn.Module,
    config: Mapping[str, Any],
    mesh: Mesh,
    *,
    num_classes: int,
    num_steps: int = 1,
    num_examples: int = 1,
) -> base.Method:
    """The method that `config["method"]["name"]` names; the other keys of the section are its own.

    `num_steps` is the length of the run, which a method with a schedule of its own goes by; `num_examples` are the
    images of the training split, for a method that remembers each.

    Raises:
        base.InputError: an unknown name, or a value of the section is not valid.
    """
    section = dict(config.get("method", {}))
    name = section.pop("name", None)
    base.check_choice(name, methods.METHODS, name="method.name")
    make = methods.METHODS[name]
    # What the program knows and a method may ask for; a loss over pairs of rows needs to know where rows are.
    known = {"num_classes": num_classes, "num_steps": num_steps, "num_examples": num_examples, "mesh": mesh}
    known |= {_TEXT[key]: value for key, value in config.get("text", {}).items() if key in _TEXT}
    asked = {key: value for key, value in known.items() if key in inspect.signature(make).parameters}
    if "teacher" in inspect.signature(make).parameters:
        asked["teacher"] = _make_teacher(config)
    elif config.get("teacher", {}).get("workdir") is not None:
        raise base.InputError(f"teacher.workdir is for the method distill; got the method {name}. Leave it open.")
    return config_lib.call(make, {"method": section}, "method", encoder=encoder, **asked)


# Of the section text, what a method calls it.
_TEXT = {"vocab_size": "vocab_size", "length": "text_length"}


def _make_teacher(config: Mapping[str, Any]) -> methods.Teacher:
    """The network that the completed section `teacher` describes, see `pretrained.inherit`."""
    section = config.get("teacher", {})
    if section.get("encoder") is None:
        raise base.InputError(
            "The method distill needs a teacher, a fine-tuned run. Use --config=distill:RUN or set teacher.workdir."
        )
    encoder = config_lib.call(models.make_encoder, section, "encoder")
    return methods.make_teacher(encoder, num_classes=section["num_classes"], **section["head"])


def remark_on_size(config: Mapping[str, Any], canvas: tuple[int, int]) -> str:
    """A line to show where views are larger than the images kept for them, "" where they are not."""
    size = config["augment"]["image_size"]
    if size <= max(canvas):
        return ""
    more = "" if config["data"]["canvas_size"] is None else f" Raise data.canvas_size from {max(canvas)} to keep more."
    return (
        f"Views of augment.image_size {size} pixels are cut from images of at most {max(canvas)} and enlarged: they "
        f"show no more than smaller views would.{more}"
    )


def data_shape(image_set: data.ImageSet, *, is_streamed: bool, crops: tuple[int, int, int] | None = None) -> DataShape:
    """The shape of a split that has been read; `crops` is (V, size, size) where the host cuts them."""
    canvas = image_set.images.shape[1:3] if crops is None else crops
    num_classes, length = len(image_set.class_names), data.epoch_size(image_set)
    texts = None if image_set.tokens is None else image_set.tokens.shape[1:]
    return DataShape(len(image_set.images), num_classes, canvas, is_streamed, length, texts)
