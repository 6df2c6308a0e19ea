"""A student that learns what a fine-tuned teacher says of images, labelled or not.

Source: SimCLRv2 (arXiv 2006.10029) section 2.3 and 3.3: LARS 0.1*sqrt(b), 5 % warm-up, weight decay 1e-4, batch 4096,
400 epochs on all ImageNet images, crop and flip only, temperature 1.0 for a smaller student and 0.1 for one of the
teacher's own architecture. From a ResNet-152 3x+SK that was fine-tuned with 1 % / 10 % of the labels, a ResNet-50
reaches 73.9 % / 77.5 %, the teacher's own architecture 76.6 % / 80.9 %.
Command: simclr-jax train --config=distill:runs/finetuned --workdir=runs/student
Self-distillation: --config.method.temperature=0.1
For CIFAR-10: --config.encoder.name=resnet18 --config.encoder.stem=cifar --config.train.batch_size=512
Expected: nobody has repeated the figures here. Data, splits and image size are those of the teacher's run unless others
are named.
"""

from ml_collections import config_dict

from configs import default


def get_config(workdir: str = "") -> config_dict.ConfigDict:
    """`workdir` is the teacher's folder, written behind the colon."""
    config = default.get_config()
    default.start_from(config, workdir, section="teacher")
    default.crop_and_flip(config)
    config.encoder.name = "resnet50"
    config.encoder.stem = "imagenet"
    config.method = config_dict.ConfigDict()
    config.method.name = "distill"
    config.method.temperature = 1.0
    config.method.loss_scale = 1.0  # temperature squared in the notebook of the authors
    config.method.label_weight = 0.0  # of the labels' cross entropy; the rest is the teacher's
    config.schedule.base_learning_rate = 0.1
    config.schedule.learning_rate_scaling = "sqrt"
    config.schedule.warmup_epochs = 20.0
    config.train.batch_size = 4096
    config.train.num_epochs = 400.0
    return config
