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
    config.method.name = "vicreg"
    config.method.proj_hidden_dim = 8192
    config.method.proj_out_dim = 8192
    config.method.invariance_weight = 25.0
    config.method.variance_weight = 25.0
    config.method.covariance_weight = 1.0
    config.method.bn_per = "view"
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_place = "outside"
    config.schedule.base_learning_rate = 0.2
    config.schedule.final_fraction = 0.001
    config.train.batch_size = 2048
    config.train.num_epochs = float(epochs)
    config.train.evaluate_every_epochs = float(max(epochs // 10, 1))
    return config
