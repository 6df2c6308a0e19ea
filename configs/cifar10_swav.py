"""CIFAR-10 with a ResNet-18: SwAV in the benchmark setting of lightly.

Source: CIFAR-10 benchmark of lightly: two crops of 32 pixels from 14 % of the image on, colour strength 0.5, no blur,
head 512-128, 512 prototypes, Adam 1e-3 with weight decay 1e-6. kNN (k 200, T 0.1, best epoch on the test set): 84.2 %
after 200 epochs of batch 512, 88.4 % after 800; 81.2 % with batch 128. No official CIFAR score exists; solo-learn has
89.17 % (linear, 1000 epochs).
Command: simclr-jax train --config=cifar10_swav --workdir=runs/cifar10_swav
Expected: the figures above; not measured here. Deliberate differences: decoupled weight decay, prototypes without bias.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_min_scale = 0.14
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "swav"
    config.method.proj_hidden_dim = 512
    config.method.proj_out_dim = 128
    config.method.num_prototypes = 512
    config.method.temperature = 0.1
    config.method.epsilon = 0.05
    config.method.sinkhorn_iterations = 3
    config.method.freeze_prototypes_steps = 97  # an epoch
    config.method.queue_length = 0
    config.method.queue_starts_at_step = 0
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 1e-6
    config.schedule.base_learning_rate = 1e-3
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = 0.0
    config.train.batch_size = 512
    return config
