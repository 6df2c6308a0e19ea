"""`simclr-jax VERB ...`, the same as `python -m simclr_jax VERB ...`."""

import importlib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

_HELP = """simclr-jax: SimCLR in JAX. Pretrain an image encoder without labels, look at it, use it.

usage: simclr-jax VERB --flag=value ...      (simclr-jax VERB --help for its flags)

  train     pretrain from a config        simclr-jax train --config=demo --workdir=runs/demo
  evaluate  kNN and linear probes         simclr-jax evaluate --workdir=runs/demo
  report    one HTML page about a run     simclr-jax report --workdir=runs/demo
  preview   a picture of the views        simclr-jax preview --config=demo --output=views.png
  plan      memory, time, rate of a run   simclr-jax plan --config=imagenet_resnet50 --devices=8
  convert   published weights to a run    simclr-jax convert --input=FILE --workdir=runs/converted
  export    a run to torch and others     simclr-jax export --workdir=runs/demo --output=exported
  cache     what is kept between runs     simclr-jax cache --empty=all
"""

_CONFIG_HELP = """  --config=NAME_OR_PATH[:ARG]   {names}
                                or your own file with get_config()
  --config.SECTION.KEY=VALUE    change one value; configs/default.py explains every key
"""


_DATA_HELP = """  --data=NAME                   where the images are now, if they have moved: folder:PATH
  --data_dir=FOLDER             where tfds sets or folders of a relative name are now
  --cache_dir=FOLDER            for decoded images; empty for none
"""
_DATA_FLAGS: dict[str, str | None] = {"data": None, "data_dir": None, "cache_dir": None}


class _Verb(NamedTuple):
    flags: dict[str, str | None]
    required: tuple[str, ...]
    with_config: bool
    help: str
    default_config: str | None = None


_VERBS = {
    "train": _Verb(
        {"workdir": None, "coordinator": None, "num_processes": None, "process_id": None},
        ("workdir",),
        True,
        """Pretrains an encoder. A workdir that holds a run of the same config goes on where it stopped.

  --workdir=FOLDER              where the run is kept: checkpoints, metrics, TensorBoard events
  --coordinator=HOST:PORT       of process 0, and with it
  --num_processes=N             in how many processes the same command is started, and
  --process_id=I                which one this is, from 0; on TPU pods, SLURM, Kubernetes and
                                Open MPI all three are found (docs/scaling.md)
{config}
Ctrl-C or SIGTERM saves and stops; the same command goes on.

  simclr-jax train --config=demo --workdir=runs/demo
  simclr-jax train --config=folder:PHOTOS --workdir=runs/photos    (your own folder of images)
""",
    ),
    "evaluate": _Verb(
        {"workdir": None, "checkpoint": "latest", **_DATA_FLAGS},
        ("workdir",),
        False,
        """Scores the frozen features of a run by kNN and a linear probe at 1 %, 10 % and 100 % of the
labels, beside an untrained network and raw pixels. Prints a table and writes results.json.

  --workdir=FOLDER              of a run made by train
  --checkpoint=latest           latest | best (by kNN while training) | a step number
{data}
  simclr-jax evaluate --workdir=runs/demo
""",
    ),
    "report": _Verb(
        {"workdir": None, "output": None, **_DATA_FLAGS},
        ("workdir",),
        False,
        """Writes one self-contained HTML page about a run: curves, probes beside their baselines,
augmented views, nearest neighbours, a map of the test set, the confusion matrix, the config.

  --workdir=FOLDER              of a run made by train; evaluate it first for the probe table
  --output=FILE                 default: report.html in the workdir
{data}
  simclr-jax report --workdir=runs/demo
""",
    ),
    "preview": _Verb(
        {"output": "views.png", "num_images": "8"},
        (),
        True,
        """Draws the augmented views that a config would train on, before anything is trained.

  --output=FILE                 the picture: .png, .jpg or .webp; default views.png
  --num_images=8                rows of the picture
{config}
  simclr-jax preview --config=demo --config.augment.color_jitter_strength=1.0 --output=views.png
""",
    ),
    "plan": _Verb(
        {"device_kind": "h200", "devices": "8", "memory": None, "compiler": "auto", "output": None},
        (),
        True,
        """Says what a run would need and take on given hardware, without running it: parameters, FLOPs,
memory, the largest batch that fits, communication, learning rate, steps, time. The hardware's own
compiler answers where it is installed (extras aot-gpu, aot-tpu); the rest is counted or modelled.

  --device_kind=h200            h200 | h100 | a100 | v4 | v5e | v5p | v6e | cpu
  --devices=8                   how many: GPUs, or chips of a TPU slice
  --memory=GB                   of one device that may be used; default: what is usual
  --compiler=auto               auto | none
  --output=FILE                 the same as JSON
{config}
  simclr-jax plan --config=imagenet_resnet50 --device_kind=h200 --devices=64
""",
    ),
    "convert": _Verb(
        {
            "input": None,
            "workdir": None,
            "weights": "model",
            "selector": "auto",
            "padding": "auto",
            "ignore": "",
            "network": "",
        },
        ("input", "workdir"),
        True,
        """Makes a run of published weights: to evaluate, fine-tune (train --config=finetune:RUN) and export.

  --input=FILE                  an official SimCLR checkpoint (TF1 or TF2; needs the extra convert);
                                a ResNet of PyTorch under any names, as .safetensors or .pth
                                (needs torch); or what export wrote
  --workdir=FOLDER              the run; must not exist or be empty
  --weights=model               model | ema (the moving averages in SimCLRv2 checkpoints)
  --selector=auto               layer of the head under the classifier: auto | 0 | 1 ...
  --padding=auto                what the weights were trained with: auto | reference | torchvision
  --ignore=NAMES                variables to leave out, shell patterns with commas between
  --network=NAME                which of several networks in a PyTorch file, such as teacher
{config}
The config says which data the weights are evaluated on; default imagenet_resnet50.

  simclr-jax convert --input=r50_1x_sk0/model.ckpt-250228 --workdir=runs/r50 --config=folder:PHOTOS
""",
        default_config="imagenet_resnet50",
    ),
    "export": _Verb(
        {"workdir": None, "output": None, "checkpoint": "latest", "format": "all", "head": "none"},
        ("workdir", "output"),
        False,
        """Writes the encoder of a run for use elsewhere, with a card (JSON) of what it is and how good.

  --workdir=FOLDER              of a run made by train or convert
  --output=FOLDER               where the files go
  --checkpoint=latest           latest | best (by kNN while training) | a step number
  --format=all                  torch (torchvision's names) | flax | stablehlo; several with commas
  --head=none                   none | projection | classifier | all: what goes with the encoder

  simclr-jax export --workdir=runs/demo --output=exported
""",
    ),
    "cache": _Verb(
        {"cache_dir": None, "empty": "none"},
        (),
        False,
        """Lists what is kept between runs, with its size: decoded splits and compiled programs. Decoded
splits stay within config.data.max_cache_gigabytes, compiled programs within 2 GB.

  --cache_dir=FOLDER            of decoded splits; default: where config.data.cache_dir puts them
  --empty=none                  none | decoded | compiled | all: what to remove; it is made again

  simclr-jax cache --empty=decoded
""",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the status: 0 done, 2 a mistake of the user (one line on stderr), 128 + n signal n."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return 0
    verb, rest = words[0], words[1:]
    if any(word in ("-h", "--help") for word in rest) and verb in _VERBS:
        print(_verb_help(verb), end="")
        return 0

    from simclr_jax import atomic_files, base
    from simclr_jax.run import config as config_lib
    from simclr_jax.run import paths

    try:
        if verb not in _VERBS:
            raise base.InputError(f"Unknown verb {verb!r}; valid verbs: {', '.join(_VERBS)}.")
        spec = _VERBS[verb]
        if spec.default_config and not any(re.match(r"--?config(=|$)", word) for word in rest):
            rest = [f"--config={spec.default_config}", *rest]
        settings, values = config_lib.parse_flags(rest, names=spec.flags, with_config=spec.with_config)
        for name in spec.required:
            if not values[name]:
                raise base.InputError(f"--{name} is required. See: simclr-jax {verb} --help")
        values = paths.typed_flags(values)
        module = importlib.import_module(f"simclr_jax.cli.{verb}")
        arguments = {**values, **({"config": settings.to_dict()} if settings is not None else {})}
        status = module.main(**arguments)
        sys.stdout.flush()
        return status
    except base.InputError as error:
        print(f"simclr-jax {verb}: {error}", file=sys.stderr)
    except OSError as error:
        if error.errno not in (*atomic_files.NO_ROOM, *atomic_files.NO_RIGHT):
            raise  # a fault of the program, to be seen whole
        reason = atomic_files.refusal(error, error.filename or "the output", rule="The system must let files be used")
        print(f"simclr-jax {verb}: {reason}", file=sys.stderr)
    return 2


def _verb_help(verb: str) -> str:
    from simclr_jax.run import shipped_configs

    names = ", ".join(shipped_configs.configs()) + ","
    indent = " " * 32  # where the flags' explanations start; a terminal of 100 columns holds it all
    listed = textwrap.fill(names, 98, initial_indent=indent, subsequent_indent=indent).lstrip()
    return f"usage: simclr-jax {verb} --flag=value ...\n\n" + _VERBS[verb].help.format(
        config=_CONFIG_HELP.format(names=listed), data=_DATA_HELP
    )


if __name__ == "__main__":
    sys.exit(main())
