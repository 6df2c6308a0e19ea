"""ImageNet with a ResNet-50: SimCLR (v1).

Source: arXiv 2002.05709: batch 4096, LARS 0.3 linear (peak 4.8), warm-up 10 epochs, weight decay 1e-6, temperature 0.1,
2-layer head, colour strength 1, blur, ADDITIVE brightness and the bicubic of the TF1 code (which trained the released
models). Linear accuracy 64.5 % after 100 epochs (README and table B.1), 69.3 % after 1000.
Command: simclr-jax train --config=imagenet_resnet50:epochs=100 --workdir=runs/imagenet_resnet50
Expected: 100 epochs about 1.1 hours on 8 H200 by the roofline (not measured); the paper: 1.5 hours on 128 TPU v3 cores.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N; the paper has 100 to 1000."""
    epochs = default.number_arguments(arg, epochs=100)["epochs"]
    config = default.get_imagenet(epochs)
    config.augment.color_jitter_strength = 1.0
    config.augment.brightness = "add"
    config.augment.resize = "tf1"
    config.method.num_proj_layers = 2
    config.optimizer.weight_decay = 1e-6
    config.train.batch_size = 4096
    return config
