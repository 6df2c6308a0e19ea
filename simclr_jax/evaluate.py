"""`simclr-jax evaluate`: what the frozen features of a run are worth, beside features that took no training."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from simclr_jax import base, compiled, data, features, methods, models, probes, progress, runlog, sharding
from simclr_jax import config as config_lib


def main(*, workdir: str, checkpoint: str, **moved: str | None) -> int:
    """Evaluates the run in `workdir` at `checkpoint` ("latest", "best" or a step); returns the exit status.

    Writes `probes` (see `probes.probe_rows`), `evaluated_step` and, for a run with a classifier of the same classes,
    `classifier` (see `score_classifier`) to results.json and prints them as a table.

    `moved` (data, data_dir, cache_dir) says where the data are now, see `config.with_data`.

    Raises:
        base.InputError: no run or no such checkpoint, or the data are not there or have no labels.
    """
    progress.quiet_libraries()
    compiled.keep()
    folder = runlog.require_run(workdir)
    config = config_lib.with_data(runlog.read_config(folder), **moved)
    probe = config_lib.call(probes.make_settings, config, "probe")
    step, params, method_state = features.load_variables(folder / "checkpoints", which=checkpoint)
    train_set = config_lib.call(data.load_split, config, "data", split=config["split"]["train"])
    test_set = config_lib.call(data.load_split, config, "data", split=config["split"]["test"])
    if not train_set.class_names:
        raise base.InputError(
            f"Probes need labels; {config['data']['name']} has none. See what the encoder finds alike: "
            f"simclr-jax report --workdir={workdir}"
        )
    progress.say(f"Evaluating step {step} on {len(test_set.images)} test images ...")
    rows = probes.probe_rows(
        collect_features(
            config, features.encoder_variables(params, method_state), train_set=train_set, test_set=test_set
        ),
        train_set.labels,
        test_set.labels,
        num_classes=len(train_set.class_names),
        fractions=probe.label_fractions,
        k=probe.knn_k,
        temperature=probe.knn_temperature,
        votes=probe.knn_votes,
    )
    scores = score_classifier(config, params, method_state, test_set=test_set)
    print(table(rows))
    if scores is not None:
        print("its classifier  " + "  ".join(f"{name} {100 * scores[name]:.1f}" for name in ("top_1", "top_5")))
    # Shown first: what took minutes is not lost to a full disk.
    runlog.update_results(folder, probes=rows, classifier=scores, evaluated_step=step, environment=runlog.environment())
    return 0


def score_classifier(
    config: Mapping[str, Any], params: base.PyTree, method_state: base.PyTree, *, test_set: data.ImageSet
) -> dict[str, Any] | None:
    """{"top_1", "top_5", "num_images", "protocol"} of the run's own classifier on centre crops of the test images.

    None if the run has no classifier, or one of another number of classes than the data have.
    """
    num_classes = len(test_set.class_names)
    if "supervised_head" not in params or params["supervised_head"]["dense"]["bias"].shape != (num_classes,):
        return None
    section, views = config["method"], config["augment"]
    arguments = {key: section[key] for key in ("head_layers", "head_dim", "head_width", "selector") if key in section}
    classify = methods.make_classify(config_lib.call(models.make_encoder, config, "encoder"), **arguments)
    predict = features.make_predict(
        lambda variables, images: classify(variables["params"], variables["batch_stats"], images),
        size=views["size"],
        resize=views["resize"],
        batch_size=config["probe"]["batch_size"],
        mesh=sharding.make_mesh(),
    )
    logits = predict({"params": params, "batch_stats": method_state["batch_stats"]}, test_set)
    ranks = {"top_1": 1, "top_5": min(5, num_classes)}
    scores = {name: probes.top_k_accuracy(logits, test_set.labels, k=k) for name, k in ranks.items()}
    return {**scores, "num_images": len(test_set.images), "protocol": "classifier.centre-crop.v1"}


def collect_features(
    config: Mapping[str, Any], variables: base.PyTree, *, train_set: data.ImageSet, test_set: data.ImageSet
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (train, test) features: the trained encoder, the same one untrained, pixels, and grey histograms.

    The histogram is there for `photo-patches` only, where grey values alone tell much of which picture it is.
    """
    mesh = sharding.make_mesh()
    encoder = config_lib.call(models.make_encoder, config, "encoder")
    size, batch_size = config["augment"]["size"], config["probe"]["batch_size"]
    views = {"size": size, "resize": config["augment"]["resize"], "batch_size": batch_size, "mesh": mesh}
    encode = features.make_encode(encoder, **views)
    init = sharding.jit_once(
        lambda key: encoder.init(key, jnp.zeros((2, size, size, 3), jnp.float32), train=False), mesh
    )
    untrained = init(jax.random.key(config["seed"]))
    images = [features.evaluation_images(split, **views) for split in (train_set, test_set)]
    collected = {
        config["method"]["name"]: (encode(variables, train_set), encode(variables, test_set)),
        "untrained": (encode(untrained, train_set), encode(untrained, test_set)),
        "pixels": (probes.pixel_features(images[0]), probes.pixel_features(images[1])),
    }
    if config["data"]["name"] == "photo-patches":
        collected["histogram"] = (probes.histogram_features(images[0]), probes.histogram_features(images[1]))
    return collected


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The probe rows as text: one line for each kind of features, one column for each probe and share of labels."""
    columns = list(dict.fromkeys((row["probe"], row["labels"]) for row in rows))
    names = list(dict.fromkeys(row["features"] for row in rows))
    cells = {(row["features"], row["probe"], row["labels"]): row["accuracy"] for row in rows}
    lines = [f"{'accuracy, %':<12}" + "".join(f"{probe} {labels}".rjust(13) for probe, labels in columns)]
    lines += [f"{name:<12}" + "".join(f"{100 * cells[name, *column]:13.1f}" for column in columns) for name in names]
    chance = rows[0]["chance"]
    protocols = ", ".join(dict.fromkeys(row["protocol"] for row in rows))
    lines += [f"{'chance':<12}" + f"{100 * chance:13.1f}" * len(columns), f"protocols: {protocols}"]
    return "\n".join(lines)
