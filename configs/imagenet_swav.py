"""ImageNet with a ResNet-50: SwAV with multi-crop.

Source: arXiv 2006.09882 and its released code: batch 4096, two crops of 224 and six of 96 pixels, LARC, 10 epochs of
warm-up from 0.3 to 4.8, cosine to 0.0048, weight decay 1e-6, head 2048-128, 3000 prototypes, fixed for the first 313
updates. Linear accuracy 72.1 %, 73.9 %, 74.6 %, 75.3 % after 100, 200, 400, 800 epochs. For batch 256 the code has
the rate 0.6 to 0.0006 without warm-up, prototypes fixed for 5005 updates, and a queue of 3840 from epoch 15 on: 72.7 %
after 200 epochs.
Command: simclr-jax train --config=imagenet_swav:epochs=200 --workdir=runs/imagenet_swav
Expected: the figures above; not measured here. Deliberate differences: no bias in front of the head's BatchNorm; its
statistics are those of the whole batch, where the code takes those of a group of 8 of its 64 GPUs, 512 images:
--config.train.bn_group=host on 8 hosts.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    config.augment.color_jitter_strength = 1.0
    config.augment.crop_min_scale = 0.14
    config.augment.num_small_views = 6
    config.method = config_dict.ConfigDict()
    config.method.name = "swav"
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 128
    config.method.num_prototypes = 3000
    config.method.temperature = 0.1
    config.method.epsilon = 0.05
    config.method.sinkhorn_iterations = 3
    config.method.freeze_prototypes_steps = 313  # an epoch
    config.method.queue_length = 0  # 3840 for batch 256
    config.method.queue_starts_at_step = 0  # that of epoch 15
    config.optimizer.name = "larc"
    config.optimizer.weight_decay = 1e-6
    config.schedule.base_learning_rate = 4.8
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_start = 0.3
    config.schedule.warmup_end = "last"
    config.schedule.final_fraction = 0.001
    config.train.batch_size = 4096
    return config
