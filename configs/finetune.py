"""Fine-tuning a pretrained run, or any converted checkpoint, with labels; without a run, training from scratch.

Source: SimCLRv2 (arXiv 2006.10029) section 2 and the fine-tuning commands of google-research/simclr: the whole network
is trained from the first layer of the projection head on (selector 1; 0, the encoder's own output, with all labels),
LARS without weight decay, rate 0.005*sqrt(b), no warm-up, crop and flip only, 60 epochs for 1 % of the labels and 30
for more. ImageNet with a ResNet-50: 57.9 % (1 %), 68.4 % (10 %), 76.3 % (all labels, selector 0), all with the
published batch: --config.train.batch_size=1024, a rate of 0.16; for wide networks and those with selective kernels also
--config.schedule.base_learning_rate=0.002. Its labels come from the official lists, --config=finetune:RUN
--config.split.label_list=1percent.txt; elsewhere from fixed subsets. The batch here, 128, is for sets of some thousand
labels and one device.
Command: simclr-jax train --config=finetune:runs/pretrained,labels=10 --workdir=runs/finetuned
Expected: nobody has repeated the ImageNet figures here. The data are those of the pretrained run unless
--config.data.name names others.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` is the folder of the run to start from and ",labels=PER_CENT": 1, 10 or 100; without a run, from scratch.

    The share sets split.label_fraction, the epochs and the layer; without it they are those of 10 % on all labels.
    """
    workdir, labels = default.run_and_number(arg, "labels", highest=100)
    config = default.get_config()
    default.start_from(config, workdir)
    default.crop_and_flip(config)
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
    config.train.num_epochs = 60.0 if labels is not None and labels <= 1 else 30.0
    if labels is not None and labels < 100:
        config.split.label_fraction = labels / 100
    if labels == 100:
        config.method.ft_proj_selector = 0
    return config
