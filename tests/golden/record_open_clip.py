"""Records open_clip.npz: features of open_clip's networks, pictures' and texts', with weights that a formula gives.

Needs torch and open_clip; run as `python -m tests.golden.record_open_clip`. The names and shapes of the state dicts are
recorded too, so that tests can make the same weights without either.
"""

import json
import pathlib

import numpy as np

from tests.golden import record_encoders

VOCABULARY, LENGTH, SIDES = 50, 12, {"vit": 32, "vit_quick": 32, "resnet": 64}
VISION = {
    "vit": {"image_size": 32, "layers": 12, "width": 192, "patch_size": 8},
    "resnet": {"image_size": 64, "layers": [3, 4, 6, 3], "width": 4},
}


def tokens() -> np.ndarray:
    """Three texts int32 [3, LENGTH] of different lengths, each with the highest number at its end."""
    rows = 1 + (np.arange(3 * LENGTH).reshape(3, LENGTH) * 7) % (VOCABULARY - 3)
    for row, end in zip(rows, (3, 7, LENGTH - 1), strict=True):
        row[0], row[end], row[end + 1 :] = VOCABULARY - 2, VOCABULARY - 1, 0
    return rows.astype(np.int32)


def main() -> None:
    """Runs the networks and writes what they give beside this file."""
    import open_clip
    import torch

    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 64, "heads": 1, "layers": 2}
    rows = {}
    for name, side in SIDES.items():
        kind, _, quick = name.partition("_")
        model = open_clip.model.CLIP(16, VISION[kind], text, quick_gelu=bool(quick)).eval()
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        weights = record_encoders.weights_of(shapes)
        model.load_state_dict(
            {key: torch.from_numpy(np.asarray(value)) for key, value in weights.items()}, strict=False
        )
        with torch.no_grad():
            images = torch.from_numpy(record_encoders.images(side)).permute(0, 3, 1, 2)
            rows[f"{name}/image"] = model.encode_image(images).numpy()
            rows[f"{name}/text"] = model.encode_text(torch.from_numpy(tokens()).long()).numpy()
        rows[f"{name}/shapes"] = np.asarray(json.dumps(shapes))
        print(name, {way: np.abs(rows[f"{name}/{way}"]).max() for way in ("image", "text")})
    np.savez_compressed(pathlib.Path(__file__).with_name("open_clip.npz"), **rows)


if __name__ == "__main__":
    main()
