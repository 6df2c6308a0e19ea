"""Every key of a run, once, with its unit. Other configs start from this one and change values.

A key marked "None =" (a placeholder) is left open by None, on the command line too: --config.data.canvas_size=None.

Reproduces nothing by itself: a ResNet-18 with the reference's defaults on the embedded photo patches.
Command: simclr-jax train --config=default --workdir=runs/default
Expected: the demo's result with a net sixteen times its size: hours on two CPU cores, minutes on a GPU.
"""

from ml_collections import config_dict


def get_config() -> config_dict.ConfigDict:
    """The default configuration. A section holds the keyword arguments of the function named beside it."""
    config = config_dict.ConfigDict()
    config.seed = 0

    # data.load_split: what to read.
    config.data = config_dict.ConfigDict()
    # photo-patches | digits | tfds:NAME[/CONFIG] | folder:PATH | pairs:PATH | mix:SET*WEIGHT,SET
    config.data.name = "photo-patches"
    config.data.data_dir = config_dict.placeholder(str)  # where TFDS looks; None = its own default
    config.data.cache_dir = config_dict.placeholder(str)  # decoded images; None = the user's cache folder, "" = none
    config.data.canvas_size = config_dict.placeholder(int)  # longest side kept in memory, pixels; None = the source's
    config.data.max_corrupt_fraction = (
        0.01  # share of damaged files that is left out (and named) before the run is refused
    )
    # Millions of pixels of the largest picture that is read; None = JPEG 256, others 14 to 64 (docs/data.md).
    config.data.max_megapixels = config_dict.placeholder(float)
    # Levels shown black and white in grey pictures of more than 8 bits, for 12 bits (0, 4095); () = (0, 65535),
    # of floats (0, 1).
    config.data.sixteen_bit_range = ()
    # All decoded splits in cache_dir, GB; those used longest ago go first. None = half of what the disk has room for.
    config.data.max_cache_gigabytes = config_dict.placeholder(float)

    # data.make_tokenizer: what methods that read texts see; the others have no use for it.
    config.text = config_dict.ConfigDict()
    config.text.tokenizer = config_dict.placeholder(str)  # a file; None = trained on the texts, kept with the run
    config.text.vocab_size = 8192  # with begin and end; 49408 for CLIP's own
    config.text.length = 32  # tokens of a text, with begin and end; 77 in CLIP

    # input_pipeline.make_settings: how the pictures come to the devices.
    config.feed = config_dict.ConfigDict()
    # "resident": decoded, on the device | "canvas": decoded once, sent row by row where they do not fit there |
    # "streamed": decoded in every epoch, crops cut on the host out of all pixels | "auto": streamed if too large.
    config.feed.kind = "auto"
    config.feed.workers = "threads"  # who decodes and cuts for the streamed feed: "threads" | "processes"
    config.feed.num_workers = config_dict.placeholder(int)  # None = a core each, at most 16; 0 = none, for debugging
    config.feed.crop_method = "exact"  # the reference's bicubic | "opencv" = another kernel, a third less work

    # Which splits are pretrained on and tested on; probes train on the first and are scored on the second.
    config.split = config_dict.ConfigDict()
    config.split.train = "train"
    config.split.test = "test"
    # Train on this share of the labelled images only, a fixed subset, class by class; None = on all images.
    config.split.label_fraction = config_dict.placeholder(float)

    # The same for images named in a text file, a file name a line: ImageNet's official lists. None = no list.
    config.split.label_list = config_dict.placeholder(str)

    # The run whose encoder and head this one starts from; its config then decides over both.
    config.init = config_dict.ConfigDict()
    config.init.workdir = config_dict.placeholder(str)  # a run made by train or convert; None = random weights
    config.init.checkpoint = "latest"  # latest | best | a step

    # The fine-tuned run that method distill learns from; its encoder and head are read there.
    config.teacher = config_dict.ConfigDict()
    config.teacher.workdir = config_dict.placeholder(str)  # None = no teacher
    config.teacher.checkpoint = "latest"  # latest | best | a step

    # augment.make_simclr_views: the views.
    config.augment = config_dict.ConfigDict()
    config.augment.image_size = 32  # pixels, side of a view and of an evaluation image
    config.augment.num_views = 2  # of every image; 2 for SimCLR
    config.augment.color_jitter_strength = 0.5  # of the colour jitter: 1.0 for ImageNet, 0.5 for CIFAR
    config.augment.brightness = "multiply"  # "multiply" (SimCLR v2 and current code) | "add" (v1)
    config.augment.resize = "tf2"  # bicubic of the "tf2" or the "tf1" reference code
    config.augment.flip_probability = 0.5
    config.augment.color_jitter_probability = 0.8
    config.augment.grayscale_probability = 0.2
    config.augment.blur_probability = 0.5  # 0.0 = no blur, as for CIFAR
    config.augment.blur_sigma_per = "view"  # one sigma per "view" of the batch (reference) or per "image"
    config.augment.solarize_probability = 0.0  # like the blur's: one number, or several that the views take in turn
    config.augment.turn_probability = 0.0  # turned by right angles: 1.0 for tissue and satellite images
    config.augment.stain_strength = 0.0  # jitter of haematoxylin and eosin: 0.05 light, 0.2 strong
    config.augment.crop_min_scale = 0.08  # lower end of the crop's share of the image
    config.augment.crop_sampler = "reference"  # of the crops: SimCLR's | "torchvision", as in most other codes
    config.augment.num_small_views = 0  # multi-crop (SwAV): crops beside the views; 6 there
    config.augment.small_image_size = 96  # pixels, side of a small crop
    config.augment.small_crop_scale = (0.05, 0.14)  # its share of the image, lowest and highest

    # models.make_encoder: the backbone.
    config.encoder = config_dict.ConfigDict()
    # resnet18 | 34 | 50 | 101 | 152 | 200 (and resnet10, half of resnet18) | wide_resnet50_2 | wide_resnet101_2 |
    # vit_tiny | small | base | large | convnext_tiny | small | base | large | efficientnet_b0 to b7 |
    # efficientnet_lite0 to lite4 | clip_resnet50 | clip_resnet101
    config.encoder.name = "resnet18"
    config.encoder.width_multiplier = 1.0  # of ResNets
    config.encoder.group_sizes = ()  # of ResNets: blocks in each group, (2, 2, 2) for example; () = those of the name
    config.encoder.stem = "cifar"  # "cifar" (3x3, for 32 pixels) | "imagenet" (7x7, stride 2, max-pool)
    config.encoder.sk_ratio = 0.0  # 0.0625 = the selective kernels of SimCLRv2, with its deep stem
    config.encoder.se_ratio = 0.0  # squeeze-and-excitation; no published model has it
    config.encoder.padding = "reference"  # "torchvision" = weights that torchvision's own class can load
    config.encoder.norm = "batch"  # "batch" | "group" (GroupNorm) | "frozen" (moving averages also in training)
    config.encoder.remat = "none"  # "blocks" = residual blocks run again in the backward pass: less memory, more time
    # Images are normalised by these, three numbers each: for weights of other programs, `convert` sets them. () = not.
    config.encoder.mean = ()
    config.encoder.std = ()
    # Of vision transformers. Sides of images are multiples of patch_size; position_grid is image_size / patch_size.
    config.encoder.patch_size = 16  # pixels: 4 | 8 | 14 | 16 | 32
    config.encoder.num_heads = 0  # of attention; 0 = a head for 64 channels; 12 = MoCo v3's vit_small
    config.encoder.pool = "token"  # h is a class token | "mean" = the mean over patches
    config.encoder.positions = "learned"  # | "sincos" = fixed
    config.encoder.position_grid = 14  # patches along a side; for images of another size positions are interpolated
    config.encoder.design = "timm"  # | "clip" | "openai": those of open_clip and of OpenAI's weights
    config.encoder.freeze_patches = False  # True = the patch projection stays random: MoCo v3's rule for stability
    config.encoder.dtype = "float32"  # compute: "float32" | "bfloat16"; parameters and losses are always float32

    # METHODS[name]: the method and its head.
    config.method = config_dict.ConfigDict()
    config.method.name = "simclr"
    config.method.num_proj_layers = 3  # 0 to 4; v1 has 2, v2 has 3
    config.method.proj_out_dim = 128
    config.method.proj_hidden_dim = config_dict.placeholder(
        int
    )  # of its hidden layers; None = as wide as the encoder's output
    config.method.temperature = 0.1
    config.method.loss_scale = 2.0  # the reference sums the two directions: twice the paper's mean
    config.method.loss_form = "auto"  # "dense" | "blockwise" (memory-light) | "ring" (also over devices); all exact
    config.method.supervised_weight = 0.0  # 1.0 = a linear classifier trained alongside, behind a stopped gradient
    config.method.ft_proj_selector = (
        0  # what that classifier reads: 0 = the encoder's output, 1 = the head's first layer ...
    )

    # optim.make_optimizer.
    config.optimizer = config_dict.ConfigDict()
    config.optimizer.name = "lars"  # lars | sgd | adamw (and the variants in optim.OPTIMIZERS)
    config.optimizer.weight_decay = 1e-4
    config.optimizer.momentum = 0.9  # of adamw its b1
    config.optimizer.nesterov = False
    config.optimizer.rate_place = "inside"  # of lars: rate inside the velocity (SimCLR) | "outside" (other codes)
    config.optimizer.vector_rate_factor = 1.0  # of lars: on the rate of biases and norms; 0.024 in Barlow Twins
    config.optimizer.b2 = 0.999  # of adamw: share of the old mean of squares; 0.98 in CLIP
    config.optimizer.eps = 1e-8  # of adamw; 1e-6 in CLIP
    config.optimizer.decayed = "usual"  # "all" = biases and normalisations too, as in torch's SGD
    config.optimizer.constant_rate_for = ""  # a module that keeps the first rate: "predictor" in SimSiam

    # optim.make_schedule: warm-up, then cosine to zero.
    config.schedule = config_dict.ConfigDict()
    config.schedule.base_learning_rate = 0.3
    config.schedule.learning_rate_scaling = "linear"  # of the base rate: "linear" b/256 | "sqrt" sqrt(b) | "none"
    config.schedule.warmup_epochs = 10.0
    config.schedule.decay = "cosine"  # | cosine_by_epoch | cosine_by_epoch_from_1 | drops (a tenth at drop_epochs)
    config.schedule.final_fraction = 0.0  # of the peak, at the end; 0.001 in Barlow Twins, VICReg, SwAV
    config.schedule.warmup_start = 0.0  # rate of the first update, not scaled; 0.3 in SwAV
    config.schedule.warmup_end = "after"  # the peak comes after the warm-up | with its "last" update
    config.schedule.drop_epochs = ()
    config.schedule.restart_epochs = ()  # where both begin anew; "(100.0,)" lets a run of 100 epochs go on

    # The training loop.
    config.train = config_dict.ConfigDict()
    config.train.batch_size = 512  # images per step, over all devices
    config.train.num_chunks = 1  # parts of the batch that pass the network in turn; BatchNorm's statistics are a part's
    config.train.bn_group = "global"  # BatchNorm's statistics over the images of all devices | of a "host" | a "device"
    config.train.fused_conv_bn = True  # on GPUs, in bfloat16: wide 1x1 convolutions take in their BatchNorm
    config.train.deterministic = False  # on GPUs: the same bits in every run on the same kind and number of devices
    config.train.freeze_encoder = False  # True = linear evaluation; BatchNorm is what encoder.norm says
    config.train.num_epochs = 100.0
    config.train.stretch_schedule = False  # True = a run may go on with another num_epochs, at that schedule's rate
    config.train.steps_per_dispatch = 1  # updates per call of the device; more hides the host at small images
    config.train.log_every_steps = 50
    config.train.checkpoint_every_steps = 500
    config.train.keep_checkpoints = 3  # the last ones; the best by kNN is kept beside them
    config.train.evaluate_every_epochs = 10.0  # kNN, of texts recall, scores without labels; 0.0 = never
    # Device memory for the training split, GB; a larger split is streamed from the host. None = half of the device's.
    config.train.max_resident_gigabytes = config_dict.placeholder(float)
    config.train.parameter_sharding = "replicated"  # "fsdp" = weights and optimizer split over devices, for wide nets

    # Probes: kNN and the linear probe on frozen features.
    config.probe = config_dict.ConfigDict()
    config.probe.knn_k = 200  # while training and in evaluate
    config.probe.more_knn_k = (10, 20, 200)  # in evaluate, too
    config.probe.knn_temperature = 0.1
    config.probe.knn_weights = "similarity"  # exp(s / temperature) | "uniform", scikit-learn's default
    config.probe.label_fractions = (0.01, 0.1, 1.0)
    config.probe.label_free_rows = 4096  # training images of the scores without labels; 0 = none
    config.probe.batch_size = 512  # images per forward pass
    return config


def get_imagenet(epochs: int) -> config_dict.ConfigDict:
    """ImageNet at 224 pixels with a ResNet-50 in bfloat16, measured ten times while training."""
    config = get_config()
    config.data.name = "tfds:imagenet2012"
    config.data.canvas_size = 384
    config.split.test = "validation"
    config.augment.image_size = 224
    config.encoder.name = "resnet50"
    config.encoder.stem = "imagenet"
    _set_epochs(config, epochs)
    return config


def get_cifar10(epochs: int) -> config_dict.ConfigDict:
    """CIFAR-10 without blur, with a ResNet-18 in bfloat16, measured ten times while training."""
    config = get_config()
    config.data.name = "tfds:cifar10"
    config.augment.blur_probability = 0.0
    _set_epochs(config, epochs)
    return config


def _set_epochs(config: config_dict.ConfigDict, epochs: int) -> None:
    config.encoder.dtype = "bfloat16"
    config.train.num_epochs = float(epochs)
    config.train.evaluate_every_epochs = float(max(epochs // 10, 1))


def as_in_torch(config: config_dict.ConfigDict) -> None:
    """Windows and padding of torchvision and a blur of each image's own, as in the codes of most other methods."""
    config.augment.crop_sampler = "torchvision"
    config.augment.blur_sigma_per = "image"
    config.encoder.padding = "torchvision"


def views_of_two_kinds(config: config_dict.ConfigDict) -> None:
    """The two distributions of views of BYOL, which MoCo v3, Barlow Twins and VICReg took over."""
    with config.ignore_type():  # one number for all views in the default, here of each
        config.augment.color_jitter_strength = (0.4, 0.4, 0.2, 0.1)
        config.augment.blur_probability = (1.0, 0.1)
        config.augment.solarize_probability = (0.0, 0.2)


def train_as_lightly(config: config_dict.ConfigDict) -> None:
    """Optimizer, schedule and batch of lightly's benchmark on CIFAR-10: SGD 0.06 b/128, cosine by epoch."""
    config.optimizer.name = "sgd"
    config.optimizer.weight_decay = 5e-4
    config.optimizer.decayed = "all"
    config.schedule.base_learning_rate = 0.12
    config.schedule.warmup_epochs = 0.0
    config.schedule.decay = "cosine_by_epoch"
    config.train.batch_size = 128


def number_arguments(arg: str, **defaults: int) -> dict[str, int]:
    """Reads "name=number,..." as it stands behind the colon of --config=NAME:ARG; `defaults` names what is known."""
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        name, _, value = item.partition("=")
        if name not in values or not value.isdigit() or int(value) < 1:
            valid = ", ".join(f"{key}=N" for key in defaults)
            raise ValueError(f"The part of --config behind the colon must be {valid} with N >= 1; got {item!r}.")
        values[name] = int(value)
    return values


def run_and_number(arg: str, name: str, *, highest: int = 100000) -> tuple[str, float | None]:
    """(folder, number) of "FOLDER,name=NUMBER" as it stands behind the colon; both may be missing."""
    workdir, found, number = arg.rpartition(f",{name}=") if f",{name}=" in arg else (arg, "", "")
    if not found:
        return workdir, None
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not 0 < value <= highest:  # nor NaN
        raise ValueError(
            f"The part of --config behind the colon may end in ,{name}=N with N above 0 and at most {highest}; "
            f"got {number!r}."
        )
    return workdir, value


def start_from(config: config_dict.ConfigDict, workdir: str, *, section: str = "init") -> None:
    """Lets a run start from the one in `workdir`, with its data and images unless others are named; "" = from none.

    `section` says what that run is: "init", whose weights are the first ones, or the "teacher".
    """
    if not workdir:
        return
    config[section].workdir = workdir
    config.data.name = config_dict.placeholder(str)
    config.split.train = config_dict.placeholder(str)
    config.split.test = config_dict.placeholder(str)
    config.augment.image_size = config_dict.placeholder(int)
    config.augment.resize = config_dict.placeholder(str)


def crop_and_flip(config: config_dict.ConfigDict) -> None:
    """One view of an image, cropped and flipped only: what training with labels sees."""
    config.augment.num_views = 1
    config.augment.color_jitter_probability = 0.0
    config.augment.grayscale_probability = 0.0
    config.augment.blur_probability = 0.0


def train_on_pairs(config: config_dict.ConfigDict) -> None:
    """What the recipes on pictures with captions have in common: views, method, optimizer, and recall every epoch."""
    config.data.name = "pairs:captions"
    crop_and_flip(config)
    config.method = clip_method()
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.2
    config.schedule.learning_rate_scaling = "none"
    config.train.evaluate_every_epochs = 1.0
    config.probe.label_free_rows = 1000  # as many pictures as recall is measured on


def blip_method() -> config_dict.ConfigDict:
    """The section of the method blip, its text tower of the size of `clip_captions`."""
    method = config_dict.ConfigDict()
    method.name = "blip"
    method.text_width = 256
    method.text_num_layers = 4
    method.text_num_heads = 4
    method.proj_out_dim = 256
    method.matching_weight = 1.0  # of the question whether a text belongs to a picture, beside CLIP's loss
    method.loss_form = "auto"  # of CLIP's loss: "dense" | "blockwise" | "ring"
    return method


def coca_method() -> config_dict.ConfigDict:
    """The section of the method coca, the halves of its text side of the size of `clip_captions`."""
    method = config_dict.ConfigDict()
    method.name = "coca"
    method.text_width = 256
    method.text_num_layers = 2  # of texts alone
    method.text_num_heads = 4
    method.caption_num_layers = 2  # on top of it, of texts that look at their image
    method.memory_length = 8  # as how many tokens they see it
    method.proj_out_dim = 256
    method.contrastive_weight = 1.0
    method.caption_weight = 2.0
    method.loss_form = "auto"  # "dense" | "blockwise" | "ring", as of clip
    return method


def clip_method() -> config_dict.ConfigDict:
    """The section of the method clip, with the text tower of CLIP's ViT-B/32."""
    method = config_dict.ConfigDict()
    method.name = "clip"
    method.text_width = 512
    method.text_num_layers = 12
    method.text_num_heads = 8
    method.text_attention = "causal"  # | "bidirectional" (SigLIP)
    method.text_activation = "gelu"  # | "quick_gelu" for the weights of OpenAI
    method.proj_out_dim = 512  # d, width of both projections
    method.objective = "clip"  # | "siglip"
    method.loss_form = "auto"  # "dense" | "blockwise" (memory-light) | "ring" (also over devices); all exact
    return method
