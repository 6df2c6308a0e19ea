"""Trains with the official TF2 program as it is: its `run.main`, its input pipeline, its model and its optimizer.

Runs in an environment with TensorFlow (and tf_keras), without JAX; SIMCLR_TF2_FOLDER names the folder of the official
code. What is replaced around it: the data set, which comes from a file; where its metrics go; its evaluation, in whose
place the encoder's features are kept. For a training on given views its input pipeline is replaced, too.
"""

import functools
import json
import os
import pathlib
import random
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import peers, timing

# What it logs -> its name here.
METRICS = {
    "train/contrast_loss": "loss",
    "train/contrast_acc": "contrastive_accuracy",
    "train/supervised_acc": "online_accuracy",
}
# The program's own, besides what a training is given.
FLAGS = {
    "optimizer": "lars",
    "momentum": 0.9,
    "learning_rate_scaling": "linear",
    "num_proj_layers": 3,
    "proj_out_dim": 128,
    "lineareval_while_pretraining": True,
    "use_blur": False,
    "image_size": 32,
    "use_tpu": False,
    "mode": "train_then_eval",
}


def main() -> None:
    """Trains as the JSON behind this program's name says, and prints a line of JSON."""
    given = json.loads(sys.argv[1])
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    peers.official_code("run.py")
    data = dict(np.load(given["data"]))
    program = load_program(data)
    import tensorflow as tf

    # Keras draws the first weights from Python's own generator. TensorFlow's global seed stays unset: with it, the
    # operations of both views inside `tf.cond` get one seed, and both views of an image the same colours.
    random.seed(given["seed"])
    np.random.seed(given["seed"])  # noqa: NPY002
    tf.compat.v1.enable_v2_behavior()
    with tempfile.TemporaryDirectory() as folder:
        set_flags(program.FLAGS, {**FLAGS, **given["flags"], "model_dir": folder})
        curves: dict[str, list[float]] = {name: [] for name in METRICS.values()}
        kept: dict[str, np.ndarray] = {}
        listen(program, curves, lambda step: kept.update(weights(folder, step, given.get("keep", ()))))
        program.perform_evaluation = lambda model, *rest: kept.update(features(model, data))
        if "views" in given:
            program.perform_evaluation = lambda *what: None
            program.data_lib.build_distributed_dataset = feed_views(given["views"], data)
        begin = time.process_time()
        program.main(["run.py"])
    np.savez(given["out"], **kept)
    told = {"curves": curves, "cpu_seconds": time.process_time() - begin}
    print(json.dumps({**told, **timing.describe(("tensorflow-cpu", "tf_keras"))}))


def load_program(data: Mapping[str, np.ndarray]) -> Any:
    """The official module `run`, whose data set is `data` (see `training_parity.save_data`)."""
    import tensorflow as tf

    sets = types.ModuleType("tensorflow_datasets")
    size = types.SimpleNamespace(num_examples=len(data["train_images"]))
    label = types.SimpleNamespace(num_classes=int(data["train_labels"].max()) + 1)
    info = types.SimpleNamespace(splits={"train": size, "validation": size}, features={"label": label})
    examples = data["train_images"], data["train_labels"]
    builder = types.SimpleNamespace(
        info=info,
        as_dataset=lambda **how: tf.data.Dataset.from_tensor_slices(examples),
        download_and_prepare=lambda: None,
    )
    sets.builder = lambda name, data_dir: builder  # type: ignore[attr-defined]
    sets.ReadConfig = lambda **how: None  # type: ignore[attr-defined]
    sys.modules["tensorflow_datasets"] = sets
    import run

    # Pictures and numbers for TensorBoard, which does not come with TensorFlow.
    run.tf.summary.image = run.tf.summary.scalar = lambda *what, **how: None
    return run


def set_flags(flags: Any, values: Mapping[str, Any]) -> None:
    """Sets the program's flags; past their parsers, as its width is a whole number there and a fraction here."""
    flags(["run.py"])
    for name, value in values.items():
        flags[name].value = value


def listen(program: Any, curves: Mapping[str, list[float]], then: Any) -> None:
    """Puts what the program logs into `curves`; `then` is called with every step at which it does."""

    def log(metrics: Any, step: int) -> None:
        for metric in metrics:
            if metric.name in METRICS:
                curves[METRICS[metric.name]].append(float(metric.result().numpy()))
        then(int(step))

    program.metrics.log_and_write_metrics_to_summary = log


def weights(folder: str, step: int, keep: tuple[int, ...]) -> dict[str, np.ndarray]:
    """The weights in the checkpoint that the program has just written, by "STEP:NAME", at the steps to keep."""
    import tensorflow as tf

    if step not in keep:
        return {}
    reader = tf.train.load_checkpoint(str(pathlib.Path(folder) / f"ckpt-{step}"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {f"{step}:{name}": reader.get_tensor(name) for name in names if ".OPTIMIZER_SLOT" not in name}


def features(model: Any, data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The encoder's output for both splits, by the program's own evaluation preprocessing."""
    import data_util
    import tensorflow as tf

    @tf.function
    def encode(images: Any) -> Any:
        whole = functools.partial(data_util.preprocess_image, height=32, width=32, is_training=False, test_crop=False)
        return model.resnet_model(tf.map_fn(whole, images, fn_output_signature=tf.float32), training=False)

    def of(images: np.ndarray) -> np.ndarray:
        return np.concatenate([encode(images[start : start + 500]).numpy() for start in range(0, len(images), 500)])

    return {"train": of(data["train_images"]), "test": of(data["test_images"])}


def feed_views(path: str, data: Mapping[str, np.ndarray]) -> Any:
    """What takes the place of the program's input pipeline: the views of a file, step by step."""
    import tensorflow as tf

    given = np.load(path)
    views, label = given["views"], given["labels"]
    classes = int(data["train_labels"].max()) + 1
    # [S, B, V, h, w, 3] -> [S, B, h, w, 3 V]
    stacked = np.concatenate([views[:, :, v] for v in range(views.shape[2])], axis=-1)
    labels = np.eye(classes, dtype=np.float32)[label]

    def build(builder: Any, batch_size: int, is_training: bool, strategy: Any, topology: Any) -> Any:
        steps = tf.data.Dataset.from_tensor_slices((stacked, labels))
        return strategy.distribute_datasets_from_function(lambda context: steps)

    return build


if __name__ == "__main__":
    main()
