"""CIFAR-10 with a ResNet-18: SimSiam, appendix D of the paper.

Source: arXiv 2011.10566, appendix D: batch 512, SGD 0.03 b/256, momentum 0.9, weight decay 5e-4 on everything, cosine
by epoch without warm-up, 800 epochs, head 2048-2048 of two layers, predictor 512, colour strength 0.5, no blur, crops
of at least 0.2 of the area. It reports a linear accuracy of 91.8 % (from memory of the
paper, not checked).
lightly's benchmark, with a rate of 0.06: kNN of 90.4 % after 800 epochs of batch 512 and 76.4 % after 200.
Command: simclr-jax train --config=cifar10_simsiam --workdir=runs/cifar10_simsiam
Expected: the figures above; not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=800)["epochs"]
    config = default.get_cifar10(epochs)
    config.augment.crop_sampler = "torchvision"
    config.method = config_dict.ConfigDict()
    config.augment.crop_min_scale = 0.2
    config.method.name = "simsiam"
    config.method.num_proj_layers = 2
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 2048
    config.method.pred_hidden_dim = 512
    config.method.bn_per = "view"
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decayed = "all"
    config.optimizer.constant_rate_for = "predictor"
    config.schedule.base_learning_rate = 0.03
    config.schedule.warmup_epochs = 0.0
    config.schedule.decay = "cosine_by_epoch"
    config.train.batch_size = 512
    return config
