"""Records how the reference's views are distributed: `python tests/golden/record_views.py REFERENCE GOLDEN`.

REFERENCE is the tf2 folder of google-research/simclr (commit 383d4143), GOLDEN the folder of pipeline_stats.npz, whose
pictures are used; it needs TensorFlow 2.15 and writes view_quantiles.npz beside this script.

pipeline_stats.npz itself holds samples drawn under a global TensorFlow seed. Such a seed gives operations in different
branches of one function the same random stream (the four places of the colour jitter among them), so its samples are
less varied than they look: the unseeded reference differs from them by up to 0.12 in Kolmogorov-Smirnov distance at
strength 1, far beyond the 1 % level of 0.067. Here no seed is set, as in the reference's own training.
"""

import pathlib
import sys

import numpy as np

NUM_VIEWS = 8000
CASES = {
    "size32_strength0.5_blur0": (32, 0.5, False),
    "size32_strength1_blur0": (32, 1.0, False),
    "size64_strength1_blur1": (64, 1.0, True),
}
LEVELS = np.arange(1, 200) / 200


def record(pictures: np.ndarray, size: int, strength: float, blur: bool) -> dict[str, np.ndarray]:
    """Quantiles [level, picture, channel] of three statistics of the views, float32."""
    import data_util
    import tensorflow as tf

    def view(k):
        return data_util.preprocess_image(
            tf.constant(pictures)[k % len(pictures)], size, size, is_training=True, color_jitter_strength=strength
        )

    views = tf.data.Dataset.range(NUM_VIEWS * len(pictures)).map(view).batch(len(pictures))
    if blur:
        views = views.map(lambda batch: data_util.batch_random_blur([batch], size, size)[0])
    batches = [batch.numpy() for batch in views]
    statistics = {
        "view_channel_mean": [b.mean(axis=(1, 2)) for b in batches],
        "view_channel_std": [b.std(axis=(1, 2)) for b in batches],
        "view_channel_mean_abs_horizontal_difference": [np.abs(np.diff(b, axis=2)).mean(axis=(1, 2)) for b in batches],
    }
    return {name: np.quantile(v, LEVELS, axis=0).astype(np.float32) for name, v in statistics.items()}


def main() -> None:
    """Writes view_quantiles.npz."""
    reference, golden = sys.argv[1:]
    sys.path.insert(0, reference)
    with np.load(pathlib.Path(golden) / "pipeline_stats.npz", allow_pickle=False) as arrays:
        pictures = arrays["input_u8"]
    recorded = {"levels": LEVELS, "num_views": np.int32(NUM_VIEWS)}
    for case, settings in CASES.items():
        recorded |= {f"{case}/{name}": v for name, v in record(pictures, *settings).items()}
    np.savez_compressed(pathlib.Path(__file__).parent / "view_quantiles.npz", **recorded)


if __name__ == "__main__":
    main()
