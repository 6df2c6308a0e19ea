"""Linear evaluation as published: a classifier trained on the frozen encoder of a run, with crop and flip.

Source: SimCLR (arXiv 2002.05709) appendix B.6 and the commands of google-research/simclr: Nesterov momentum 0.9, rate
0.1*b/256, no warm-up, no weight decay, 90 epochs, the classifier on the encoder's output and zero at first, BatchNorm
with its moving averages. Batch 4096 on ImageNet; on CIFAR-10 512 and 100 epochs: --config=linear_eval:RUN,epochs=100.
ImageNet with a ResNet-50: 69.3 % after 1000 epochs, about 64.5 % after 100.
Command: simclr-jax train --config=linear_eval:runs/pretrained --workdir=runs/linear
The TF2 code lets BatchNorm use the batch's statistics here, against its own comment: --config.encoder.norm=batch. With
--config.optimizer.name=lars it is the optimizer of the SimCLRv2 commands.
Expected: nobody has repeated the ImageNet figures here. On the CPU the demo's run takes a minute. The data are those of
the pretrained run unless --config.data.name names others.
"""

from ml_collections import config_dict

from configs import default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` is the folder of the run to start from and ",epochs=N"; without a run, a random encoder stays frozen."""
    workdir, epochs = default.run_and_number(arg, "epochs")
    config = default.get_config()
    default.start_from(config, workdir)
    default.crop_and_flip(config)
    config.encoder.norm = "frozen"
    config.method = config_dict.ConfigDict()
    config.method.name = "supervised"
    config.method.num_proj_layers = 3
    config.method.proj_out_dim = 128
    config.method.ft_proj_selector = 0
    config.method.label_smoothing = 0.0
    config.optimizer.name = "sgd"
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 0.0
    config.schedule.base_learning_rate = 0.1
    config.schedule.warmup_epochs = 0.0
    config.train.freeze_encoder = True
    config.train.batch_size = 512
    config.train.num_epochs = 90.0 if epochs is None else epochs
    config.train.evaluate_every_epochs = 0.0  # the encoder rests, and with it kNN
    return config
