"""Variables by name: trees to names and back, their file, and the fingerprint."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from simclr_jax import base, models
from simclr_jax.interop import variables


def small_trees():
    rng = np.random.default_rng(0)

    def array(*shape):
        return rng.normal(size=shape).astype(np.float32)

    params = {
        "encoder": {"stem": {"conv1": {"kernel": array(3, 3, 3, 2)}, "bn1": {"scale": array(2), "bias": array(2)}}},
        "supervised_head": {"dense": {"kernel": array(2, 3), "bias": array(3)}},
    }
    return params, {"encoder": {"stem": {"bn1": {"mean": array(2), "var": array(2)}}}}


def test_names_are_paths_without_the_collection():
    params, batch_stats = small_trees()
    by_name = variables.flatten(params, batch_stats)
    assert list(by_name) == [
        "encoder/stem/bn1/bias", "encoder/stem/bn1/mean", "encoder/stem/bn1/scale", "encoder/stem/bn1/var",
        "encoder/stem/conv1/kernel", "supervised_head/dense/bias", "supervised_head/dense/kernel",
    ]  # fmt: skip
    np.testing.assert_array_equal(by_name["encoder/stem/bn1/var"], batch_stats["encoder"]["stem"]["bn1"]["var"])


@pytest.mark.parametrize("to", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_unflatten_is_the_inverse_of_flatten(to):
    trees = jax.tree.map(to, small_trees())
    back = variables.unflatten(variables.flatten(*trees))
    assert jax.tree.structure(back) == jax.tree.structure(trees)
    jax.tree.map(np.testing.assert_array_equal, back, trees)
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(back))


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("resnet18", 0.0),
        ("resnet50", 0.0625),
        *(pytest.param(name, 0.0, marks=pytest.mark.slow) for name in models.ENCODERS if name != "resnet18"),
    ],
)
def test_every_encoder_has_one_name_per_variable(name, ratio):
    encoder = models.make_encoder(name, sk_ratio=ratio, se_ratio=ratio)
    images = jnp.zeros((2, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))
    stand_ins = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    stats = {"encoder": stand_ins["batch_stats"]} if "batch_stats" in stand_ins else {}  # transformers have none
    trees = {"encoder": stand_ins["params"]}, stats
    by_name = variables.flatten(*trees)
    assert len(by_name) == len(jax.tree.leaves(trees))
    back = variables.unflatten(by_name)
    assert jax.tree.structure(back) == jax.tree.structure(trees)
    assert jax.tree.map(np.shape, back) == jax.tree.map(np.shape, trees)


def test_parts_and_only_split_by_the_beginning_of_the_name():
    by_name = variables.flatten(*small_trees())
    assert variables.parts(by_name) == ["encoder", "supervised_head"]
    assert set(variables.only(by_name, "supervised_head")) == {
        "supervised_head/dense/kernel", "supervised_head/dense/bias"
    }  # fmt: skip
    assert not variables.only({"encoder2/kernel": np.zeros(1)}, "encoder")


def test_trees_that_are_not_ours_are_refused():
    with pytest.raises(base.InputError, match=r"got encoder/bn1/mean in params"):
        variables.flatten({"encoder": {"bn1": {"mean": np.zeros(1)}}}, {})
    with pytest.raises(base.InputError, match=r"got encoder/bn1/scale in batch_stats"):
        variables.flatten({}, {"encoder": {"bn1": {"scale": np.zeros(1)}}})
    for names in (("a/b", "a/b/c"), ("a/b/c", "a/b")):
        with pytest.raises(base.InputError, match="either a variable or a module"):
            variables.unflatten(dict.fromkeys(names, np.zeros(1)))


def test_a_file_gives_back_the_bits_the_types_and_the_layout(tmp_path):
    kernel = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {
        "turned": kernel.T,
        "strided": kernel[:, ::2],
        "half": kernel.astype(np.float16),
        "brain": kernel.astype(ml_dtypes.bfloat16),
        "double": np.float64(np.pi).reshape(()),
        "odd": np.array([np.nan, -0.0, np.inf], np.float32),
    }
    variables.save(tmp_path / "a.safetensors", arrays, metadata={"what": "test"})
    back = variables.load(tmp_path / "a.safetensors")
    assert list(back) == sorted(arrays)
    for name, value in arrays.items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape)
        assert back[name].tobytes() == value.tobytes()


def test_a_file_is_the_same_whenever_it_is_written(tmp_path):
    by_name = variables.flatten(*small_trees())
    for name, order in (("a", by_name), ("b", dict(reversed(by_name.items())))):
        variables.save(tmp_path / name, order)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_can_be_read_by_whom_the_umask_says(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    variables.save(tmp_path / "weights", {"a": np.zeros(1)})
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("content", [None, b"", b"not weights at all", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_one_line(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(base.InputError, match="read from a safetensors file") as caught:
        variables.load(path)
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_a_fixed_function_of_the_weights():
    """Recomputed here byte by byte: the rule is public, cards that exist must stay valid."""
    import hashlib

    kernel = np.array([[1.0, -2.0]], np.float32)
    text = b"a/bias\0int32\x003\0" + b"\1\0\0\0\2\0\0\0\3\0\0\0" + b"a/kernel\0float32\x001,2\0"
    expected = hashlib.sha256(text + bytes.fromhex("0000803f000000c0")).hexdigest()
    by_name = {"a/kernel": kernel, "a/bias": np.array([1, 2, 3], np.int32)}
    assert variables.fingerprint(by_name) == expected
    as_stored_elsewhere = {
        "a/bias": np.array([1, 2, 3], ">i4"),
        "a/kernel": np.asfortranarray(np.repeat(kernel, 2, axis=1)[:, ::2]),
    }
    assert variables.fingerprint(as_stored_elsewhere) == expected


def test_the_fingerprint_sees_every_change():
    by_name = variables.flatten(*small_trees())
    name = "encoder/stem/conv1/kernel"
    value = by_name[name]
    nudged = value.copy()
    nudged.view(np.uint32)[0, 0, 0, 0] ^= 1
    changed = [
        {**by_name, name: nudged},
        {**by_name, name: value.astype(np.float64)},
        {**by_name, name: value.reshape(9, 3, 1, 2)},
        {key: v for key, v in by_name.items() if key != name},
        {key.replace("conv1", "conv2"): v for key, v in by_name.items()},
    ]
    assert len({variables.fingerprint(each) for each in [by_name, *changed]}) == 6
