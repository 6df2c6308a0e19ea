"""The work of `simclr-jax predict`: features by the classifier's own encoder, and a table of probabilities."""

import csv
import io
from collections import Counter

import numpy as np

from simclr_jax import atomic_files, base, units
from simclr_jax.run import classifier_file, compilation_cache, embedding, feature_file, loading, progress

_BLOCK = 8192


def predict(
    *, classifier: str, images: str | None = None, features: str | None = None, output: str = "predictions.csv"
) -> int:
    """Writes id, path, class, its probability and those of all classes to `output`; returns the exit status.

    Args:
        classifier: a file that `probe` wrote.
        images: pictures, which pass through the encoder that the classifier was fitted on.
        features: or a file that `embed` wrote with that encoder; one of the two is given.
        output: a CSV.

    Raises:
        base.InputError: no such file, features of another encoder, or the encoder is not there any more.
    """
    progress.quiet_libraries()
    compilation_cache.keep()
    if (images is None) == (features is None):
        got = "neither" if images is None else "both"
        raise base.InputError(f"Pictures come from one of --images=FOLDER and --features=FILE; got {got}. Give one.")
    atomic_files.check_target(output)
    kept = classifier_file.load(classifier)
    if features is not None:
        found = feature_file.load(features)
        classifier_file.check_features(kept, found)
        embedding.tell_skipped(found.meta.get("skipped", []))
    else:
        found = loading.embed_alike(kept.meta, images or "", show=True)
    counts: Counter[str] = Counter()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "path", "class", "probability", *kept.class_names))
    for start in range(0, len(found.names), _BLOCK):
        probabilities = kept.classifier.probabilities(np.asarray(found.features[start : start + _BLOCK], np.float32))
        for row, values in enumerate(probabilities, start=start):
            best = int(values.argmax())
            counts[kept.class_names[best]] += 1
            place = (found.names[row], found.paths[row], kept.class_names[best])
            writer.writerow((*place, f"{values[best]:.6f}", *(f"{value:.6f}" for value in values)))
    atomic_files.write_text(output, text.getvalue())
    print(
        f"Wrote {output}: {units.counted(len(found.names), 'picture')}; "
        + ", ".join(f"{n} {name}" for name, n in counts.most_common(8))
    )
    return 0
