"""What each training of `benchmarks/training_parity.py` is given: the same numbers in the words of each program."""

from typing import Any, NamedTuple

KNN_K = 200


class Size(NamedTuple):
    """How large all trainings are.

    data, train, test: name and splits of the images. width: of the ResNet-18. batch_size, num_steps: of a training.
    window: steps whose metrics are averaged. warmup_steps: of the official recipe. num_examples: images of the
    training split. follow_steps, follow_batch: of the trainings on given views; keep: steps whose weights are compared.
    """

    data: str
    train: str
    test: str
    width: float
    batch_size: int
    num_steps: int
    window: int
    warmup_steps: int
    num_examples: int
    num_classes: int
    follow_steps: int
    follow_batch: int
    keep: tuple[int, ...]


FULL = Size(
    data="tfds:cifar10/jpeg",
    train="train[:10000]",
    test="test[:2000]",
    width=0.125,
    batch_size=128,
    num_steps=400,
    window=20,
    warmup_steps=40,
    num_examples=10000,
    num_classes=10,
    follow_steps=100,
    follow_batch=64,
    keep=(1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
)
TINY = Size(
    data="photo-patches",
    train="train",
    test="test",
    width=0.0625,
    batch_size=16,
    num_steps=8,
    window=4,
    warmup_steps=2,
    num_examples=6344,
    num_classes=18,
    follow_steps=4,
    follow_batch=8,
    keep=(1, 2, 4),
)
# As far as activations are off by TensorFlow's variances in float32: 7e-5 of one over 128 x 32 x 32 numbers, halved.
ROUNDING = 3e-5
RECIPE = {"learning_rate": 1.0, "weight_decay": 1e-4, "temperature": 0.5, "color_jitter_strength": 0.5}


def epochs(size: Size, steps: int, batch: int) -> float:
    """Epochs of which the reference counts so many steps: a little more than whole ones, for its rounding."""
    return (steps + 0.5) * batch / size.num_examples


def official(size: Size) -> dict[str, Any]:
    """For the official program on its own random numbers."""
    flags = {"width_multiplier": size.width, "resnet_depth": 18, "train_batch_size": size.batch_size, **RECIPE}
    flags |= {"train_steps": size.num_steps, "checkpoint_steps": size.window}
    flags |= {"warmup_epochs": epochs(size, size.warmup_steps, size.batch_size)}
    return {"flags": flags, "data_name": size.data, "train": size.train, "test": size.test, "k": KNN_K}


def official_follow(size: Size) -> dict[str, Any]:
    """For the official program on given views, from its first weights.

    With one replica `global_bn` has nothing to gather; without it BatchNorm is Keras's own.
    """
    given = official(size)
    flags = {"train_steps": size.follow_steps, "checkpoint_steps": 1, "train_batch_size": size.follow_batch}
    flags |= {"warmup_epochs": epochs(size, size.warmup_steps, size.follow_batch), "global_bn": False}
    return {**given, "flags": {**given["flags"], **flags}, "keep": size.keep}


def ours(size: Size) -> dict[str, Any]:
    """For this program with the official recipe."""
    from simclr_jax.run import config as config_lib

    config = config_lib.load_file("cifar10").to_dict()
    config["data"]["name"] = size.data
    config["split"] |= {"train": size.train, "test": size.test}
    config["augment"]["color_jitter_strength"] = RECIPE["color_jitter_strength"]
    config["encoder"] |= {"width_multiplier": size.width, "dtype": "float32"}
    config["method"] |= {"temperature": RECIPE["temperature"], "supervised_weight": 1.0}
    config["optimizer"]["weight_decay"] = RECIPE["weight_decay"]
    config["schedule"]["base_learning_rate"] = RECIPE["learning_rate"]
    config["schedule"]["warmup_epochs"] = epochs(size, size.warmup_steps, size.batch_size)
    config["train"] |= {"batch_size": size.batch_size, "steps_per_dispatch": 1, "evaluate_every_epochs": 0.0}
    # The program counts the step of an unfinished epoch, too.
    config["train"]["num_epochs"] = epochs(size, size.num_steps - 1, size.batch_size)
    return {"config": config, "window": size.window, "k": KNN_K}


def ours_follow(size: Size, dtype: str, *, rounding: float = 0.0) -> dict[str, Any]:
    """For this program on given views; with `rounding`, every update has weights that are off by such a share."""
    config = ours(size)["config"]
    config["schedule"]["warmup_epochs"] = epochs(size, size.warmup_steps, size.follow_batch)
    config["train"]["num_epochs"] = epochs(size, size.follow_steps - 1, size.follow_batch)
    config["follow"] = {"num_examples": size.num_examples, "num_classes": size.num_classes}
    given = {"config": config, "dtype": dtype, "keep": size.keep, "steps": size.follow_steps}
    return {**given, "batch": size.follow_batch, **({"rounding": rounding} if rounding else {})}


def lightly(size: Size) -> dict[str, Any]:
    """For lightly with its recipe."""
    shown = {"width": size.width, "batch_size": size.batch_size, "num_steps": size.num_steps, "window": size.window}
    return {**shown, "data_name": size.data, "train": size.train, "test": size.test, "k": KNN_K}


def ours_as_lightly(size: Size) -> dict[str, Any]:
    """For this program with lightly's recipe, as near as its settings come."""
    from configs import default

    given = ours(size)
    config = default.get_cifar10(1)
    default.as_in_torch(config)
    default.train_as_lightly(config)
    config = config.to_dict()
    for section in ("data", "split", "train"):
        config[section] = given["config"][section]
    config["encoder"] |= {"width_multiplier": size.width, "dtype": "float32"}
    # ImageNet's, by which lightly's views are normalised.
    config["encoder"] |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    # lightly's loss is the mean; the reference's, twice as large, is what the default trains on.
    config["method"] |= {"temperature": 0.5, "num_proj_layers": 2, "loss_scale": 1.0}
    return {**given, "config": config}
