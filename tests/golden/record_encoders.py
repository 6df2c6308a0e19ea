"""Records encoders.npz: features of timm's and torchvision's networks with weights that a formula gives.

Needs torch, torchvision and timm; run as `python tests/golden/record_encoders.py`. `weights_of` is what the tests share
with it: weights by the names of PyTorch's state dict, so that files stay small and names are tested too.
"""

import pathlib
import zlib
from collections.abc import Mapping

import numpy as np

SIDE = 32
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
TRANSFORMER = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 0}


def weights_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 weights for the entries of a state dict: a sine of the flat index, its phase by the entry's name."""
    return {name: _fill(name, shape) for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def _fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = np.sin(1.7 * np.arange(np.prod(shape)) ** 1.1 + zlib.crc32(name.encode()) % 1000).reshape(shape)
    if name.endswith("running_var"):
        values = 1.0 + 0.5 * values
    elif name.endswith("weight") and len(shape) == 1:
        values = 1.0 + 0.2 * values
    elif name.endswith("weight"):
        values = values * (3.0 / np.prod(shape[1:])) ** 0.5
    else:
        values = 0.2 * values
    return values.astype(np.float32)


def images(side: int) -> np.ndarray:
    """Two images [2, side, side, 3] in [0, 1]."""
    return (
        (0.5 + 0.5 * np.sin(0.37 * np.arange(2 * side * side * 3) ** 1.05)).reshape(2, side, side, 3).astype(np.float32)
    )


def main() -> None:
    """Runs the networks and writes their features beside this file."""
    import timm
    import torch
    import torchvision

    def features(model, side: int) -> np.ndarray:
        weights = weights_of({name: tuple(value.shape) for name, value in model.state_dict().items()})
        model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()}, strict=False)
        x = torch.from_numpy(images(side)).permute(0, 3, 1, 2)
        with torch.no_grad():
            if isinstance(model, torchvision.models.EfficientNet):
                return model.eval().avgpool(model.features(x)).flatten(1).numpy()
            if isinstance(model, torchvision.models.ConvNeXt):
                return model.eval().classifier[:2](model.avgpool(model.features(x))).numpy()
            return model.eval()(x).numpy()

    def transformer(**more):
        return timm.models.VisionTransformer(**TRANSFORMER, dynamic_img_size=True, **more)

    def convnext():
        widths, sizes = CONVNEXT["dims"], CONVNEXT["depths"]
        blocks = zip(widths, (*widths[1:], None), sizes, strict=True)
        config = torchvision.models.convnext.CNBlockConfig
        return torchvision.models.ConvNeXt([config(*block) for block in blocks])

    mean = {"global_pool": "avg", "class_token": False}
    rows = {
        "vit/token/16": features(transformer(), 16),
        "vit/token/24": features(transformer(), 24),
        "vit/mean/16": features(transformer(**mean), 16),
        "convnext/torchvision": features(convnext(), SIDE),
        "convnext/timm": features(timm.models.ConvNeXt(**CONVNEXT, num_classes=0), SIDE + 13),
        "efficientnet_b0": features(torchvision.models.efficientnet_b0(), SIDE),
        "efficientnet_b5": features(torchvision.models.efficientnet_b5(), SIDE),
        "efficientnet_lite0": features(timm.create_model("efficientnet_lite0", num_classes=0), SIDE),
        "tf_efficientnet_b0": features(timm.create_model("tf_efficientnet_b0", num_classes=0), SIDE),
    }
    np.savez_compressed(pathlib.Path(__file__).with_name("encoders.npz"), **rows)
    print({name: float(np.abs(value).max()) for name, value in rows.items()})


if __name__ == "__main__":
    main()
