"""CIFAR-10 with a ResNet-18: NNCLR in the benchmark setting of lightly.

Source: CIFAR-10 benchmark of lightly: SGD 0.06 b/128, momentum 0.9, weight decay 5e-4 on everything, cosine by epoch
without warm-up, head 2048-256 of two layers, predictor 4096, temperature 0.5, queue of 4096, colour strength 0.5, no
blur. kNN (k 200, T 0.1, best epoch on the test set): 83.4 % after 200 epochs of batch 128; 81.5 % with batch 512
(89.2 % after 800). solo-learn has 91.9 % (linear, 1000 epochs, LARS).
Command: simclr-jax train --config=cifar10_nnclr --workdir=runs/cifar10_nnclr
Expected: the figures above; not measured here. Deliberate difference: the loss is the paper's, theirs has the other
neighbours as candidates as well.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=200)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    config.method.name = "nnclr"
    config.method.num_proj_layers = 2
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 256
    config.method.pred_hidden_dim = 4096
    config.method.temperature = 0.5
    config.method.queue_length = 4096
    config.method.bn_per = "view"
    default.train_as_lightly(config)
    return config
