"""`plan` against published figures, hand arithmetic, and what the real compiler said."""

import json
import math
import time

import jax
import jax.numpy as jnp
import pytest

from simclr_jax import __main__ as cli
from simclr_jax import base, data, methods, models
from simclr_jax.planning import estimate, hardware, plan
from simclr_jax.planning import text as plan_text
from simclr_jax.run import config as config_lib
from simclr_jax.run import shipped_configs
from tests.data.prepare import makers


def planned(name="imagenet_resnet50", *, kind="h200", devices=8, memory=None, **overrides):
    config = config_lib.load_file(name).to_dict()
    for path, value in overrides.items():
        section, key = path.split("__")
        config[section][key] = value
    return plan.make_plan(config, kind=kind, devices=devices, memory=memory, compiler="none")


@pytest.fixture(scope="module", autouse=True)
def measured_once():
    """A network is traced once, whoever asks."""
    known, measure = {}, plan.measure

    def look_up(config, shape, *, kind):
        key = repr((config, shape, kind))
        if key not in known:
            known[key] = measure(config, shape, kind=kind)
        return known[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plan, "measure", look_up)
        yield


@pytest.fixture(scope="module")
def imagenet():
    return planned()


def test_parameters_of_resnet50_are_torchvisions(imagenet):
    assert imagenet["counted"]["num_encoder_params"] == 25557032 - (2048 * 1000 + 1000)  # without its classifier


# Table 1 of arXiv 2006.10029, published to the million, and the roofline of a per-layer table made by hand, views/s.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "millions", "ceiling"),
    [
        ({"name": "resnet50", "width_multiplier": 2.0}, 94, 4400),
        ({"name": "resnet50", "width_multiplier": 4.0}, 375, 1480),
        ({"name": "resnet50", "width_multiplier": 2.0, "sk_ratio": 0.0625}, 140, None),
        ({"name": "resnet152", "width_multiplier": 3.0, "sk_ratio": 0.0625}, 795, 649),
    ],
    ids=str,
)
def test_wide_networks_have_the_published_parameters_and_the_derived_roofline(encoder, millions, ceiling):
    # The table by hand has BatchNorm apart from the convolutions.
    plain = {"train__batch_size": 64, "train__fused_conv_bn": False}
    wide = planned(**plain, **{f"encoder__{key}": value for key, value in encoder.items()})
    assert abs(wide["counted"]["num_encoder_params"] / 1e6 - millions) <= 1.0
    if ceiling:
        assert 16 / wide["modelled"]["times"]["roofline"] == pytest.approx(ceiling, rel=0.04)


def test_flops_are_those_that_torchvision_publishes(imagenet):
    # 4.089 GMAC for ResNet-50 at 224 pixels; the head is 2048 x 2048 + 2048 x 128, the classifier 2048 x 1000.
    macs = 4.089e9 - 2048 * 1000 + 2048 * 2048 + 2048 * 128
    assert imagenet["counted"]["forward_flops_per_view"] == pytest.approx(2 * macs, rel=2e-3)
    # Both gradients cost as much as the forward pass each, but nobody needs that of the image: 7 x 7 x 3 x 64 x 112^2.
    spared = 7 * 7 * 3 * 64 * 112**2
    assert imagenet["counted"]["flops_per_example"] == pytest.approx(2 * 2 * (3 * macs - spared), rel=2e-3)


@pytest.mark.slow
def test_steps_and_rates_are_those_of_the_papers(imagenet):
    assert imagenet["counted"]["num_steps"] == 1281167 * 100 // 4096 + 1
    rates = {rate["scaling"]: rate for rate in imagenet["counted"]["learning_rates"]}
    assert rates["linear"]["peak"] == pytest.approx(4.8)  # 0.3 * 4096 / 256
    assert rates["sqrt"]["base"] == pytest.approx(0.075)  # SimCLR, appendix B.1
    larger = {rate["scaling"]: rate["peak"] for rate in planned(train__batch_size=8192)["counted"]["learning_rates"]}
    assert larger["linear"] == pytest.approx(9.6) and larger["sqrt"] == pytest.approx(0.075 * math.sqrt(8192))


# Statistics of groups cannot be folded.
@pytest.mark.slow
@pytest.mark.parametrize("plain", [{"bn_group": "device"}, {"fused_conv_bn": False}], ids=str)
def test_the_roofline_is_the_one_derived_by_hand(imagenet, plain):
    """11.2 thousand views a second for a plain ResNet-50 on an H200, by a per-layer table that counts edges otherwise.

    Folding saves 5A and costs 3X of the 20 wide convolutions: A is 7.02 and X 2.1 million elements of two bytes, 58 MB
    of 4.3 TB/s, so that 89.3 us a view become 75.9.
    """
    config = config_lib.load_file("imagenet_resnet50").to_dict()
    config["train"].update(plain)
    plain = plan.measure(config, plan.data_shape(config, hardware.find("h200")), kind="h200")[0]
    assert 1024 / estimate.times(plain, placed()).roofline == pytest.approx(11200, rel=0.03)
    assert 1024 / imagenet["modelled"]["times"]["roofline"] == pytest.approx(1e6 / 75.9, rel=0.04)


def placed(**changes):
    start = estimate.Placement("h200", 8, 4096, source_bytes=512 * 384 * 384 * 3)
    return start._replace(**changes)


@pytest.fixture(scope="module")
def network():
    config = config_lib.load_file("imagenet_resnet50").to_dict()
    return plan.measure(config, plan.data_shape(config, hardware.find("h200")), kind="h200")[0]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("kind", "images", "expected"),
    [
        ("h200", 64, (89, 75, 62)),
        ("h200", 256, (97, 92, 84)),
        ("h200", 1024, (99, 97, 90)),
        ("v5p", 64, (97, 94, 88)),
        ("v5p", 256, (99, 98, 96)),
    ],
)
def test_weak_scaling_is_within_five_points_of_the_hand_derivation(network, kind, images, expected):
    """Images on a device -> per cent on 8, 64 and 512 devices."""
    found = [
        100 * estimate.times(network, placed(kind=kind, devices=n, batch_size=n * images)).efficiency
        for n in (8, 64, 512)
    ]
    assert found == pytest.approx(expected, abs=5)


def test_kept_activations_are_those_counted_by_hand(network):
    """Inputs of every convolution and BatchNorm of ResNet-50 at 224 pixels, bfloat16, layer by layer."""
    elements = 112 * 112 * 64  # the stem's BatchNorm; its convolution reads the image
    side, width, entering = 56, 64, 64
    for blocks in (3, 4, 6, 3):
        for block in range(blocks):
            strided = block == 0 and width > 64
            before = side * 2 if strided else side
            elements += before**2 * entering  # block input, read by conv1 and the shortcut
            elements += 2 * before**2 * width  # bn1 and, behind it, conv2
            elements += 2 * side**2 * width  # bn2, conv3; what bn3 and proj_bn normalise is never kept
            elements += side**2 * entering if strided else 0  # the pixels that proj_conv takes
            entering = 4 * width
        side, width = side // 2, width * 2
    head = 4 * (2048 + 2048 + 2048 + 128)  # h, bn1, dense2, bn2: float32
    assert network.kept_bytes == pytest.approx(2 * elements + head, rel=2e-3)


def test_the_largest_batch_is_the_largest(network):
    for memory in (40e9, 80e9, 138e9):
        largest = estimate.largest_batch(network, placed(), memory_bytes=memory)
        per_example = placed().source_bytes / 4096
        peaks = [
            estimate.peak_bytes(network, placed(batch_size=b, source_bytes=int(per_example * b)))
            for b in (largest, largest + 8)
        ]
        assert largest % 8 == 0 and peaks[0] <= memory < peaks[1]
    assert estimate.largest_batch(network, placed(), memory_bytes=1e6) == 0


def test_a_split_on_the_device_does_not_grow_with_the_batch(network):
    resident = placed(devices=1, batch_size=512, source_bytes=20_000_000_000, is_streamed=False)
    largest = estimate.largest_batch(network, resident, memory_bytes=138e9)
    peaks = [estimate.peak_bytes(network, resident._replace(batch_size=b)) for b in (largest, largest + 1)]
    assert peaks[0] <= 138e9 < peaks[1]


def test_chunks_and_a_blockwise_loss_need_less_memory(network):
    whole = estimate.peak_bytes(network, placed())
    chunked = estimate.peak_bytes(network, placed(num_chunks=4))
    assert chunked < whole / 3
    small = placed(devices=1, batch_size=16384, source_bytes=0)
    dense, blockwise = (estimate.loss_bytes(network, small._replace(loss=loss)) for loss in ("dense", "blockwise"))
    assert dense - blockwise == 6 * 4 * 16384**2 and blockwise < 1e8
    slower = estimate.times(network, placed(num_chunks=4)).expected / estimate.times(network, placed()).expected
    assert slower == pytest.approx(4 / 3)


def test_small_sets_lie_on_the_device_and_imagenet_is_streamed(imagenet):
    assert imagenet["run"]["is_streamed"] and imagenet["run"]["num_examples"] == 1281167
    cifar = planned("cifar10")
    assert not cifar["run"]["is_streamed"] and cifar["run"]["num_examples"] == 50000
    built_in = data.load_split("digits", "train")
    count = len(built_in.images)
    assert data.describe_split("digits", "train") == (count, 10, built_in.images.shape[1], count)


@pytest.mark.slow
def test_steps_of_a_mix_are_counted_from_how_often_its_images_come(tmp_path):
    makers.class_folders(tmp_path / "a", num_each=6)
    makers.class_folders(tmp_path / "b", num_each=12)
    name = f"mix:folder:{tmp_path}/a*5,folder:{tmp_path}/b*0.5"
    mixed = planned("smoke", devices=1, data__name=name, train__batch_size=8, train__num_epochs=2.0)
    run, length = mixed["run"], 5 * 12 + 12
    assert (run["num_examples"], run["epoch_size"]) == (12 + 24, length)
    assert mixed["counted"]["num_steps"] == 2 * length // 8 + 1
    assert f"(2 epochs of {length} images)" in plan_text.as_text(mixed)


@pytest.mark.slow
def test_the_page_is_readable_and_keeps_the_kinds_of_numbers_apart(imagenet, tmp_path, capsys):
    start = time.perf_counter()
    words = ["plan", "--config=imagenet_resnet50", "--devices=64", "--compiler=none", f"--output={tmp_path}/plan.json"]
    assert cli.main(words) == 0
    assert time.perf_counter() - start < 30
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert [text.index(word) for word in ("Counted", "Compiled", "Modelled")] == sorted(
        text.index(word) for word in ("Counted", "Compiled", "Modelled")
    )
    saved = json.loads((tmp_path / "plan.json").read_text())
    assert set(saved) == {"run", "counted", "compiled", "modelled"} and saved["run"]["devices"] == 64
    assert saved["counted"]["num_params"] == imagenet["counted"]["num_params"]


def test_a_cpu_has_a_plan_without_times():
    cpu = planned("smoke", kind="cpu", devices=3, train__batch_size=33)
    assert cpu["modelled"]["peak_bytes"] > 0 and "CPU" in cpu["compiled"]
    assert "No time" in plan_text.as_text(cpu)


def test_devices_that_do_not_divide_the_batch_are_refused_with_the_nearest_that_do():
    with pytest.raises(base.InputError, match="Use 96 or 104"):
        planned("smoke", train__batch_size=100)


def test_the_host_waits_or_is_waited_for(imagenet):
    found = imagenet["modelled"]["feeding"]
    rate = 8 * imagenet["modelled"]["views_per_second_and_device"] / 2
    assert found["kind"] == "streamed" and found["images_per_second"] == pytest.approx(rate)
    # A typical file, two crops of 224 pixels, and 30 %.
    seconds = 3e-4 + 500 * 375 * 5e-9 + 2 * 224**2 * 8e-9
    assert found["cores_needed"] == math.ceil(1.3 * rate * seconds) and found["limit"] == ""
    assert found["bytes_per_second"] == pytest.approx(rate * 2 * 3 * 224**2)
    assert "with fewer the host is the limit" in plan_text.as_text(imagenet)
    config = config_lib.load_file("imagenet_resnet50").to_dict()
    shape = plan.program_lib.DataShape(50000, 10, (32, 32), False)
    known = {"rate": rate, "host_cores": 1, "host_rate": 10.0}
    assert plan._feeding(config, shape, **known)["limit"] == "device"
    large = shape._replace(canvas=(2, 224, 224), is_streamed=True)
    assert plan._feeding(config, large, **known)["limit"] == "host"
    rows = plan._feeding(config, shape._replace(is_streamed=True), **known)
    assert (rows["kind"], rows["bytes_per_second"]) == ("canvas", pytest.approx(rate * 3 * 32**2))
    assert plan._feeding(config, large, **known)["kind"] == "streamed"
    assert plan._feeding(config, shape, **(known | {"rate": math.nan})) is None


def test_the_plan_feeds_as_the_run_would():
    config = config_lib.load_file("imagenet_resnet50").to_dict()

    def kind(augment=(), **changed):
        new = {section: {**config[section], **values} for section, values in changed.items()}
        new["augment"] = {**config["augment"], **dict(augment)}
        new = {**config, **new}
        shape = plan.data_shape(new, hardware.find("h200"))
        return plan._feeding(new, shape, rate=1000.0, host_cores=1, host_rate=None)["kind"]

    assert kind() == kind({"crop_sampler": "torchvision"}) == "streamed"
    # Views that the host cannot cut come from canvases, and so do those of who asks for it.
    assert kind({"num_small_views": 2}) == kind(feed={"kind": "canvas"}) == "canvas"
    assert kind(feed={"kind": "resident"}) == kind(train={"max_resident_gigabytes": 1e6}) == "resident"
    # A part with labels is streamed where the whole split is.
    assert kind(split={"label_fraction": 0.01}) == "streamed"
    with pytest.raises(base.InputError, match=r"Use feed\.kind canvas"):
        planned("imagenet_swav", feed__kind="streamed")


# A batch in parts and views of two sizes come first; those that name pairs, a folder or a teacher need them.
NEEDY = ("default", "distill", "folder", "histology", "clip_vit_b32", "pathology_clip")
PLANNED = list(
    dict.fromkeys(
        ["cifar10_moco", "cifar10_swav"]
        + [name for name in shipped_configs.configs() if name not in NEEDY and "captions" not in name]
    )
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (at > 1)) for at, name in enumerate(PLANNED)]
)
def test_every_recipe_has_a_plan(name):
    found = planned(name)
    forms = {choice["loss"] for choice in found["modelled"]["choices"]}
    assert forms == ({"dense", "blockwise"} if found["run"]["method"] == "simclr" else {"other"})
    assert found["modelled"]["times"]["step"] > 0 and found["modelled"]["peak_bytes"] > 0
    lines = plan_text.as_text(found)
    assert ("is not modelled" in lines) == (forms == {"other"})
    assert ("or 96 pixels" in lines) == (name == "imagenet_swav")


def cost_of(encoder):
    """Of an encoder alone, at 224 pixels."""
    method = methods.make_simclr(encoder, num_classes=0, num_proj_layers=0)
    state = jax.eval_shape(
        lambda key: base.TrainState(jnp.zeros((), jnp.int32), *method.init(key, jnp.zeros((1, 2, 224, 224, 3))), {}),
        jax.random.key(0),
    )
    return estimate.measure(method, state, size=224)


@pytest.mark.slow
def test_a_convnext_is_counted_with_its_depthwise_convolutions():
    """Multiply-adds of a ConvNeXt-T at 224 pixels by the sizes of its products; published as 4.5 billion."""
    stages = [(96, 56, 3), (192, 28, 3), (384, 14, 9), (768, 7, 3)]
    blocks = sum(depth * side**2 * (8 * width**2 + 49 * width) for width, side, depth in stages)
    patches = 56**2 * 48 * 96 + sum(side**2 * 2 * width**2 for width, side, _ in stages[1:])
    found = cost_of(models.make_encoder("convnext_tiny"))
    assert found.forward_flops / 2 == blocks + patches and round(found.forward_flops / 2e9, 1) == 4.5
    assert found.num_batch_norms == 0 and found.num_encoder_params == 27_820_128


@pytest.mark.slow
def test_a_transformer_is_counted_with_its_attention():
    """Multiply-adds of a ViT-Ti at 224 pixels by the sizes of its products; published as 1.26 billion (DeiT-Ti)."""
    width, tokens = 192, 197
    block = tokens * 12 * width**2 + 2 * tokens**2 * width
    counted = cost_of(models.make_encoder("vit_tiny")).forward_flops / 2
    assert counted == 196 * 768 * width + 12 * block
    assert counted == pytest.approx(1.26e9, rel=0.01)
