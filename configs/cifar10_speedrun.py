"""CIFAR-10 with a ResNet-18 to 90 % kNN in the fewest minutes: speed first, then the recipe.

Reproduces no paper. The public mark is 1 h 39 min on one A100 (github.com/dkobak/simclr-cifar10: 500 epochs, kNN 90.3);
cifar10_speedrun_peer is that recipe in this program. Scored by kNN with k = 10, cosine, uniform votes.
Command: python benchmarks/gpu.py speedrun --workdir=runs/speedrun, or one run of it:
simclr-jax train --config=cifar10_speedrun --workdir=runs/cifar10_speedrun   (:epochs=400 for fewer epochs)
Expected: modelled, not measured: at 0.6 of an H200's roofline (86 thousand views/s) an epoch takes 1.2 s and 500 epochs
under 10 minutes, to which starting, compiling and 25 evaluations come. No GPU has run it yet.

Changed against cifar10, each for a reason that is a hypothesis until it is measured:
- speed: batch 1024, so that the 576 kernels of an update are long beside their starts; SGD, for LARS starts 60 more;
  25 updates a dispatch, so that the host is not waited for; rare log lines; checkpoints with the evaluations, these
  in batches of 2048. Resident data, scanned updates and bfloat16 are cifar10's own.
- recipe: what the peer found to matter, as its epochs are known to lead to 90 %: SGD with momentum 0.9 and weight
  decay 5e-4; crops of at least 0.2 of the area; grey with 0.1 in place of 0.2 (0.8 points in its table); a head of
  1024 and 128; the mean loss and not its double, since SGD does not forgive a factor; temperature 0.5 stays. Beyond
  the peer: base rate 0.06, which it uses for short runs, in place of 0.03; nesterov; five epochs of warm-up for the
  rate of the larger batch.
"""

from ml_collections import config_dict

from configs import cifar10, default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=500)["epochs"]
    config = cifar10.get_config(f"epochs={epochs}")
    config.data.canvas_size = 32  # also for a folder, whose pictures need not be measured then
    config.augment.crop_min_scale = 0.2
    config.augment.grayscale_probability = 0.1
    config.method.num_proj_layers = 2
    config.method.proj_hidden_dim = 1024
    config.method.loss_scale = 1.0
    config.optimizer.name = "sgd"
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.base_learning_rate = 0.06
    config.schedule.warmup_epochs = min(5.0, epochs / 10)
    config.train.batch_size = 1024
    config.train.steps_per_dispatch = 25
    config.train.log_every_steps = 100
    config.train.checkpoint_every_steps = 5000
    config.train.keep_checkpoints = 1
    config.train.evaluate_every_epochs = float(max(min(20, epochs // 10), 1))
    config.probe.knn_k = 10
    config.probe.knn_weights = "uniform"
    config.probe.label_free_rows = 0  # every second counts
    config.probe.batch_size = 2048
    return config
