"""ImageNet with a ResNet-50: VICReg.

Source: arXiv 2105.04906 and its released code: batch 2048, LARS with the rate outside the velocity, 0.2 b/256, 10
epochs of warm-up, cosine to 0.1 % of the peak, weight decay 1e-6, expander 8192-8192-8192, terms 25, 25, 1. Linear
accuracy 73.2 % after 1000 epochs. For 100 epochs the code has batch 512 and the rate 0.3.
Command: simclr-jax train --config=imagenet_vicreg:epochs=1000 --workdir=runs/imagenet_vicreg
Expected: 73.2 % (linear, 1000 epochs); 63.0 % after 100 epochs of batch 256 in lightly's benchmark. Not measured here.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=1000)["epochs"]
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    default.views_of_two_kinds(config)
    config.method = config_dict.ConfigDict()
    config.method.name = "vicreg"
    config.method.proj_hidden_dim = 8192
    config.method.proj_out_dim = 8192
    config.method.invariance_weight = 25.0
    config.method.variance_weight = 25.0
    config.method.covariance_weight = 1.0
    config.method.bn_per = "view"
    config.method.dtype = "float32"  # of the heads' activations; "bfloat16" is faster, with other roundings
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_place = "outside"
    config.schedule.base_learning_rate = 0.2
    config.schedule.final_fraction = 0.001
    config.train.batch_size = 2048
    return config
