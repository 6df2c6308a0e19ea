"""The backbone in detectors: names as written down from their code, and torchvision's own Mask R-CNN trains on it."""

import numpy as np
import pytest

from simclr_jax import base
from simclr_jax.cli import export
from simclr_jax.interop import detection
from tests.cli.test_export import ARGUMENTS, doc_block, draw_images, features_of, make_run
from tests.interop.test_torchvision import norm_shapes, shapes_of, stand_ins

SIZE = 64


def detectron2_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of Detectron2's ResNet-50 below an FPN, written down from its modeling/backbone/resnet.py.

    BasicStem has conv1, a Conv2d whose `norm` is its BatchNorm; the stages are res2 to res5; BottleneckBlock has conv1,
    conv2, conv3 and in the first block of a stage shortcut, each with its `norm`.
    """
    root = "backbone.bottom_up"
    shapes = {f"{root}.stem.conv1.weight": (64, 3, 7, 7), **norm_shapes(f"{root}.stem.conv1.norm", 64)}
    before = 64
    for stage, (count, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=2):
        for block in range(count):
            layers = {"conv1": (width, before, 1, 1), "conv2": (width, width, 3, 3), "conv3": (4 * width, width, 1, 1)}
            layers |= {"shortcut": (4 * width, before, 1, 1)} if block == 0 else {}
            for layer, shape in layers.items():
                name = f"{root}.res{stage}.{block}.{layer}"
                shapes |= {f"{name}.weight": shape, **norm_shapes(f"{name}.norm", shape[0])}
            before = 4 * width
    return shapes


def test_the_names_and_shapes_of_detectron2_are_all_there_and_no_others():
    state = detection.to_detectron2(stand_ins("resnet50"))
    assert shapes_of(state) == detectron2_shapes() and len(state) == 53 * 5


def test_layers_keep_their_weights():
    names = {"encoder/block_group2/block3/bn2/mean": 1, "encoder/block_group1/block1/proj_bn/var": 2}
    state = detection.to_detectron2({name: np.full(2, value) for name, value in names.items()})
    assert state["backbone.bottom_up.res3.2.conv2.norm.running_mean"][0] == 1
    assert state["backbone.bottom_up.res2.0.shortcut.norm.running_var"][0] == 2
    assert "backbone.body.layer2.2.bn2.running_mean" in detection.to_torchvision_fpn(dict.fromkeys(names, np.ones(1)))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        ({"name": "resnet10", "stem": "cifar"}, "stem cifar and width 1"),
        ({"name": "resnet10", "stem": "imagenet", "width_multiplier": 0.25}, "stem imagenet and width 0.25"),
        ({"name": "resnet10", "stem": "imagenet"}, "no projection in the first group"),
    ],
)
def test_networks_that_no_detector_has_are_refused(tmp_path, encoder, told):
    make_run(tmp_path / "run", **encoder)
    arguments = {**ARGUMENTS, "format": "detection"}
    with pytest.raises(base.InputError, match=told):
        export.main(workdir=str(tmp_path / "run"), output=str(tmp_path / "out"), **arguments)


def squares(torch, count: int):
    """Images with a bright square each, and their boxes, labels and masks: detection and segmentation at once."""
    rng = np.random.default_rng(0)
    images, targets = [], []
    for _ in range(count):
        (top, left), side = rng.integers(8, 64, 2), int(rng.integers(24, 56))
        image = rng.random((3, 128, 128), np.float32) * 0.2
        image[:, top : top + side, left : left + side] += 0.7
        mask = torch.zeros((1, 128, 128), dtype=torch.uint8)
        mask[0, top : top + side, left : left + side] = 1
        box = torch.tensor([[left, top, left + side, top + side]], dtype=torch.float32)
        images.append(torch.from_numpy(image))
        targets.append({"boxes": box, "labels": torch.tensor([1]), "masks": mask})
    return images, targets


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes on idle cores
@pytest.mark.usefixtures("torchvision")
def test_torchvisions_mask_rcnn_takes_the_backbone_and_trains(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    trees = make_run(tmp_path / "run", name="resnet50", stem="imagenet", padding="torchvision", size=SIZE)
    arguments = {**ARGUMENTS, "format": "detection"}
    assert export.main(workdir=str(tmp_path / "run"), output=str(tmp_path / "exports" / "detection"), **arguments) == 0
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    small = "num_classes=2, min_size=128, max_size=128, rpn_post_nms_top_n_train=64, box_batch_size_per_image=16"
    code = doc_block("resnet_fpn_backbone").replace("num_classes=91", small)
    scope = {}
    exec(compile(code, "docs/weights.md", "exec"), scope)
    model, found = scope["model"], scope["found"]
    assert not found.unexpected_keys
    assert not [name for name in found.missing_keys if name.startswith("backbone.body.")]
    images = draw_images(2, SIZE)
    expected = features_of(tmp_path / "run", trees, images)
    with torch.no_grad():
        maps = model.eval().backbone.body(torch.from_numpy(images).permute(0, 3, 1, 2))
    h = maps["3"].mean(dim=(2, 3)).numpy()
    np.testing.assert_allclose(h, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    pictures, targets = squares(torch, 2)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    losses, model = [], model.train()
    for _ in range(6):
        loss = sum(model(pictures, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all() and np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
