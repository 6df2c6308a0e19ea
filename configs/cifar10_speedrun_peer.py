"""CIFAR-10 with a ResNet-18: the recipe of the mark that cifar10_speedrun runs against, as far as it can be said here.

Source: github.com/dkobak/simclr-cifar10, README and script: batch 512, 500 epochs, SGD with momentum 0.9 at 0.03 x
b/256 (0.06 for 100 epochs) and weight decay 5e-4, cosine without warm-up, temperature 0.5, crops of at least 0.2 of
the area, jitter 0.4 with 0.8, grey with 0.1, head 1024-128. There: kNN (k = 10, cosine) 90.3 after 500 epochs in 1 h
39 min, 83.2 after 100, on an A100.
Command: python benchmarks/gpu.py speedrun --peer --workdir=runs/speedrun, or one run of it:
simclr-jax train --config=cifar10_speedrun_peer --workdir=runs/cifar10_speedrun_peer   (or :epochs=100)
Expected: 90.3 on CIFAR-10 itself by its author; not run here on a GPU, nothing is known for the JPEG copy.

Not the peer's, because the program cannot say it: its head has biases and no BatchNorm; each view has a forward pass,
hence BatchNorm statistics, of its own; weight decay reaches BatchNorm too; crops are resized bilinearly on uint8
images; the rate changes once an epoch; the last batch of an epoch is smaller, here batches run over the end of an
epoch.
On purpose: bfloat16, resident data and scanned updates as in cifar10_speedrun, so that the two differ by recipe only.
"""

from ml_collections import config_dict

from configs import cifar10_speedrun, default


def get_config(arg: str = "") -> config_dict.ConfigDict:
    """`arg` may say epochs=N."""
    epochs = default.number_arguments(arg, epochs=500)["epochs"]
    config = cifar10_speedrun.get_config(f"epochs={epochs}")
    config.optimizer.nesterov = False
    config.schedule.base_learning_rate = 0.06 if epochs <= 100 else 0.03
    config.schedule.warmup_epochs = 0.0
    config.train.batch_size = 512
    return config
