"""The losses of the family with the batch spread over devices: those of one device, and of the official processes."""

import json

import numpy as np
import pytest

from tests.devices import run_on_devices
from tests.losses import family

GOLDEN = family.load("distributed")

_CODE = """
    import json
    import re
    import jax, jax.numpy as jnp, numpy as np
    from simclr_jax import losses
    from simclr_jax.distributed import sharding
    from tests.losses import family

    jax.config.update("jax_enable_x64", True)
    golden = family.load("distributed")
    mesh = sharding.make_mesh()
    rows = sharding.rows(mesh)
    z, k, scores = (jnp.asarray(golden[name], "float64") for name in ("z", "k", "scores"))
    labels = jnp.asarray([0.0, 1, 0, 2, 1, -1, 2, 0])
    memory, index = jnp.eye(5, 6), jnp.arange(24).reshape(8, 3) % 5
    three = jnp.stack([scores, scores[:, ::-1], scores * 0.5], axis=1)
    tiles = dict(log_scale=jnp.float64(2.0), block_size=3)
    nce = dict(memory=memory, index=index, partition=9.0)

    def everything(z, k, three, labels, mesh):
        return {
            "barlow": losses.barlow_twins(z)[0],
            "vicreg": losses.vicreg(z)[0],
            "dcl_lightly": losses.dcl(z)[0],
            "dclw": losses.dclw(z)[0],
            "sup_con": losses.sup_con(z, labels)[0],
            "info_nce": losses.info_nce(z[:, 0], k[:, 1])[0],
            "clip": losses.clip(z[:, 0], z[:, 1], log_scale=jnp.float64(2.0))[0],
            "clip_gather": losses.clip_blockwise(z[:, 0], z[:, 1], **tiles, mesh=mesh)[0],
            "clip_ring": losses.clip_blockwise(z[:, 0], z[:, 1], **tiles, mesh=mesh, exchange="ring")[0],
            "siglip": losses.siglip(z[:, 0], z[:, 1], log_scale=2.0, bias=-1.5)[0],
            "siglip_gather": losses.siglip_blockwise(z[:, 0], z[:, 1], **tiles, bias=-1.5, mesh=mesh)[0],
            "siglip_ring": losses.siglip_blockwise(
                z[:, 0], z[:, 1], **tiles, bias=-1.5, mesh=mesh, exchange="ring")[0],
            "pirl": losses.pirl_nce(z[:, 0], z[:, 1], **nce)[0],
            "byol": losses.byol(z, k)[0],
            "simsiam": losses.simsiam(z, k)[0],
            "moco": losses.moco(z[:, 0], k[:, 1], memory)[0],
            "moco_v3": losses.moco_v3(z, k, temperature=0.2)[0],
            "nnclr": losses.nnclr(k, z)[0],
            "nt_xent_with_memory": losses.nt_xent_with_memory(z, memory)[0],
            "swav": losses.swav(three, queue_scores=three[:3, :2][::-1])[0],
        }

    def both(mesh):
        form = lambda *x: everything(*x, mesh)
        return jax.jit(lambda *x: (form(*x), jax.jacrev(form, argnums=(0, 1, 2))(*x)))

    assign = jax.jit(lambda x: losses.sinkhorn(x))
    given = (z, k, three, labels)
    alone = jax.device_get((both(None)(*given), assign(scores)))
    spread = tuple(jax.device_put(x, rows) for x in given)
    together = jax.device_get((both(mesh)(*spread), assign(jax.device_put(scores, rows))))
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    (values, gradients), assignments = together
    plain = {name: (float(values[name]), gradients[name][0].tolist()) for name in values}

    for name in ("gather", "ring"):
        np.testing.assert_allclose(values[f"siglip_{name}"], values["siglip"], rtol=1e-12)
        np.testing.assert_allclose(gradients[f"siglip_{name}"][0], gradients["siglip"][0], rtol=0, atol=1e-12)

    # What is summed over images is reduced, and no projection gathered.
    for loss in (losses.barlow_twins, losses.vicreg):
        text = jax.jit(jax.grad(lambda z: loss(z)[0])).lower(spread[0]).compile().as_text()
        assert "all-reduce" in text and not re.search("all-gather|all-to-all|collective-permute", text), loss
    text = jax.jit(losses.sinkhorn).lower(jax.device_put(scores, rows)).compile().as_text()
    assert "all-reduce" in text and not re.search("all-gather|all-to-all|collective-permute", text)
    print(json.dumps([plain, assignments.tolist()]))
"""


@pytest.mark.slow
def test_on_four_devices_all_losses_are_those_of_the_global_batch():
    plain, assignments = json.loads(run_on_devices(4, _CODE))
    np.testing.assert_allclose(assignments, GOLDEN["sinkhorn/assignments_f64"], rtol=0, atol=1e-10)
    names = {
        "barlow": "barlow",
        "moco_v3": "mocov3",
        "vicreg": "vicreg",
        "dcl_lightly": "dcl_lightly",
        **dict.fromkeys(("clip", "clip_gather", "clip_ring"), "clip_gather_with_grad"),
    }
    for ours, recorded in names.items():
        loss, gradient = plain[ours]
        assert abs(loss - GOLDEN[f"{recorded}/global_loss_f64"]) <= 1e-10 * max(1, abs(loss)), ours
        expected = GOLDEN[f"{recorded}/global_gradient_f64"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8 * np.abs(expected).max(), err_msg=ours)
