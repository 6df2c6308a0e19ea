"""CIFAR-10 with a ResNet-18: MoCo as in the notebook of its authors.

Source: notebook for CIFAR-10 of facebookresearch/moco: batch 512, SGD 0.06, momentum 0.9, weight decay 5e-4 on
everything, cosine by epoch without warm-up, queue of 4096, key network's decay 0.99, temperature 0.1, one dense layer
to 128, BatchNorm in 8 groups, colour strength 0.5, no blur. kNN (k 200, T 0.1) on the test set: 82.6 % after 200
epochs, 86.3 % after 400, 88.7 % after 800; without the groups four points less.
Command: simclr-jax train --config=cifar10_moco --workdir=runs/cifar10_moco   (--config=cifar10_moco:epochs=800)
Expected: the figures above; not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "moco"
    config.method.num_proj_layers = 1
    config.method.proj_hidden_dim = config_dict.placeholder(int)  # None = as wide as the encoder's output
    config.method.proj_out_dim = 128
    config.method.temperature = 0.1
    config.method.queue_length = 4096
    config.method.target_decay = 0.99
    config.method.bn_splits = 8
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decayed = "all"
    config.schedule.base_learning_rate = 0.06
    config.schedule.learning_rate_scaling = "none"
    config.schedule.warmup_epochs = 0.0
    config.schedule.decay = "cosine_by_epoch"
    config.train.batch_size = 512
    return config
