"""ImageNet with a ResNet-50: Barlow Twins.

Source: arXiv 2103.03230 and its released code: batch 2048, LARS with the rate outside the velocity, 0.2 b/256 for
kernels and 0.0048 b/256 for biases and normalisations, 10 epochs of warm-up, cosine to 0.1 % of the peak, weight decay
1e-6, head 8192-8192-8192, lambda 0.0051. Linear accuracy 73.5 % after 1000 epochs.
There the gradient is that of the mean over 32 processes, of which each differentiates its own share only: 1/32 of the
loss's. loss_scale brings that to the optimizer, which feels it in biases, normalisations and weight decay.
Command: simclr-jax train --config=imagenet_barlow_twins:epochs=1000 --workdir=runs/imagenet_barlow_twins
Expected: 73.5 % (linear, 1000 epochs); 62.9 % after 100 epochs of batch 256 in lightly's benchmark. Not measured here.
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
    config.method.name = "barlow_twins"
    config.method.proj_hidden_dim = 8192
    config.method.proj_out_dim = 8192
    config.method.redundancy_weight = 0.0051  # lambda
    config.method.loss_scale = 1 / 32
    config.method.bn_per = "view"
    config.method.dtype = "float32"  # of the heads' activations; "bfloat16" is faster, with other roundings
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_place = "outside"
    config.optimizer.vector_rate_factor = 0.024
    config.schedule.base_learning_rate = 0.2
    config.schedule.final_fraction = 0.001
    config.train.batch_size = 2048
    return config
