"""The files beside the shards by which TFDS knows a data set: dataset_info.json, features.json and the class names."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from simclr_jax.data.prepare import plan as plan_lib

_FEATURES = "tensorflow_datasets.core.features"


def shard_name(plan: plan_lib.Plan, split: str, *, index: int, count: int) -> str:
    """The file name of shard `index` of `count`."""
    return f"{plan.name}-{split}.array_record-{index:05d}-of-{count:05d}"


def write(folder: pathlib.Path, plan: plan_lib.Plan, splits: Mapping[str, tuple[int, Sequence[int]]]) -> None:
    """Writes what TFDS needs into the folder of the shards.

    Args:
        folder: of the data set.
        plan: what was prepared.
        splits: split -> (bytes of its records, number of examples in each of its shards).
    """
    for feature, names in plan.labels.items():
        (folder / f"{feature}.labels.txt").write_text(
            "".join(f"{one_line(name)}\n" for name in names), encoding="utf-8"
        )
    write_json(folder / "features.json", _features(plan))
    write_json(folder / "dataset_info.json", _info(plan, splits))


def _features(plan: plan_lib.Plan) -> dict[str, Any]:
    height, width = plan.shape or (-1, -1)
    image = {"dtype": "uint8", "shape": {"dimensions": [str(height), str(width), "3"]}}
    if plan.encoding:
        image["encodingFormat"] = plan.encoding
    features: dict[str, Any] = {"image": {"pythonClassName": f"{_FEATURES}.image_feature.Image", "image": image}}
    for feature, names in plan.labels.items():
        features[feature] = {
            "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
            "classLabel": {"numClasses": str(len(names))},
        }
    if plan.name_feature:
        features[plan.name_feature] = {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}
    return {"pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}


def _info(plan: plan_lib.Plan, splits: Mapping[str, tuple[int, Sequence[int]]]) -> dict[str, Any]:
    info: dict[str, Any] = {
        "name": plan.name,
        "version": plan.version,
        "description": plan.understood,
        "fileFormat": "array_record",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "numBytes": str(num_bytes),
                "shardLengths": [str(length) for length in lengths],
            }
            for split, (num_bytes, lengths) in splits.items()
        ],
    }
    if plan.config:
        info["configName"] = plan.config
    if "label" in plan.labels:
        info["supervisedKeys"] = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    return info


def one_line(name: str) -> str:
    """A class name that a file of one name a line can hold."""
    return " ".join(name.encode("utf-8", "backslashreplace").decode().split())


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Writes a JSON file that is there whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        part.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
