"""Fine-tuning a pretrained run, or any converted checkpoint, with labels; without a run, training from scratch.

Source: SimCLRv2 (arXiv 2006.10029) section 2 and the fine-tuning commands of google-research/simclr: the whole network
is trained from the first layer of the projection head on (selector 1; 0, the encoder's own output, with all labels),
LARS without weight decay, rate 0.005*sqrt(b), no warm-up, crop and flip only, 60 epochs for 1 % and 30 for 10 % of the
labels. ImageNet with a ResNet-50: 57.9 % (1 %), 68.4 % (10 %), 76.3 % (all labels, selector 0).
Command: simclr-jax train --config=finetune:runs/pretrained --workdir=runs/finetuned --config.split.label_fraction=0.1
Expected: nobody has repeated the ImageNet figures here. The data are those of the pretrained run unless
--config.data.name names others.
"""

from ml_collections import config_dict

from configs import default


def get_config(workdir: str = "") -> config_dict.ConfigDict:
    """`workdir` is the folder of the run to start from, written behind the colon; without one, from scratch."""
    config = default.get_config()
    if workdir:
        config.init.workdir = workdir
        config.data.name = config_dict.placeholder(str)
        config.split.train = config_dict.placeholder(str)
        config.split.test = config_dict.placeholder(str)
        config.augment.image_size = config_dict.placeholder(int)
        config.augment.resize = config_dict.placeholder(str)
    config.augment.num_views = 1
    config.augment.color_jitter_probability = 0.0
    config.augment.grayscale_probability = 0.0
    config.augment.blur_probability = 0.0
    config.method = config_dict.ConfigDict()
    config.method.name = "supervised"
    config.method.num_proj_layers = 3
    config.method.proj_out_dim = 128
    config.method.ft_proj_selector = 1  # layer of the head under the classifier; 0 = the encoder's own output
    config.method.label_smoothing = 0.0
    config.optimizer.weight_decay = 0.0
    config.schedule.base_learning_rate = 0.005
    config.schedule.learning_rate_scaling = "sqrt"
    config.schedule.warmup_epochs = 0.0
    config.train.batch_size = 128
    config.train.num_epochs = 30.0
    return config
