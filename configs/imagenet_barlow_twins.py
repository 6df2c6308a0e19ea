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
    config = default.get_config()
    config.data.name = "tfds:imagenet2012"
    config.data.canvas_size = 384
    config.split.test = "validation"
    config.augment.image_size = 224
    config.augment.crop_sampler = "torchvision"
    config.augment.blur_sigma_per = "image"
    with config.ignore_type():  # one number for all views in the default, here of each
        config.augment.color_jitter_strength = (0.4, 0.4, 0.2, 0.1)
        config.augment.blur_probability = (1.0, 0.1)
        config.augment.solarize_probability = (0.0, 0.2)
    config.encoder.name = "resnet50"
    config.encoder.stem = "imagenet"
    config.encoder.padding = "torchvision"
    config.encoder.dtype = "bfloat16"
    config.method = config_dict.ConfigDict()
    config.method.name = "barlow_twins"
    config.method.proj_hidden_dim = 8192
    config.method.proj_out_dim = 8192
    config.method.redundancy_weight = 0.0051  # lambda
    config.method.loss_scale = 1 / 32
    config.method.bn_per = "view"
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_place = "outside"
    config.optimizer.vector_rate_factor = 0.024
    config.schedule.base_learning_rate = 0.2
    config.schedule.final_fraction = 0.001
    config.train.batch_size = 2048
    config.train.num_epochs = float(epochs)
    config.train.evaluate_every_epochs = float(max(epochs // 10, 1))
    return config
