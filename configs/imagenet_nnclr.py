"""ImageNet with a ResNet-50: NNCLR.

Source: arXiv 2104.14548; there is no official code: batch 4096, LARS 0.3 b/256, weight decay 1e-6, 10 epochs of
warm-up, cosine to 0, head 2048-2048-256, predictor 4096, temperature 0.1, queue of 98304. Linear accuracy 75.4 % after
1000 epochs (75.6 % with small crops, which this config does not have), both from memory of the paper, not checked.
Command: simclr-jax train --config=imagenet_nnclr:epochs=1000 --workdir=runs/imagenet_nnclr
Expected: the figure above; not measured here. The views are SimCLR's.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=1000)["epochs"]
    config = default.get_imagenet(epochs)
    default.as_in_torch(config)
    config.augment.color_jitter_strength = 1.0
    config.method = config_dict.ConfigDict()
    config.method.name = "nnclr"
    config.method.num_proj_layers = 3
    config.method.proj_hidden_dim = 2048
    config.method.proj_out_dim = 256
    config.method.pred_hidden_dim = 4096
    config.method.temperature = 0.1
    config.method.queue_length = 98304
    config.method.bn_per = "view"
    config.method.dtype = "float32"  # of the heads' activations; "bfloat16" is faster, with other roundings
    config.optimizer.weight_decay = 1e-6
    config.optimizer.rate_place = "outside"
    config.schedule.base_learning_rate = 0.3
    config.train.batch_size = 4096
    return config
