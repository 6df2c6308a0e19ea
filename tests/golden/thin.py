"""Makes the small golden files in this folder from the full ones: `python tests/golden/thin.py FOLDER [FILE ...]`.

FILES names, for every file, the arrays to keep: shell patterns, of which the last one that matches decides; a pattern
that starts with "!" drops. Arrays are copied unchanged.
"""

import fnmatch
import pathlib
import sys

import numpy as np

_RESNET = ["input", "num_*", "[et]*/features_f64", "[et]*_mean_std_f64", "train/updated_statistics_sum_all_f64"]

# Losses, norms, statistics and the first 16 entries of every gradient and parameter; whole tensors are left out.
_TRAIN_STEP = [
    *("views*", "labels", "num_classes", "learning_rates", "temperature", "weight_decay", "config/*", "*_names"),
    *(
        "step?/loss_*",
        "step?/contrast_acc",
        "*_f64",
        "step?/*first16_f64/*",
        "variables/shapes",
        "!variables/tf2_names",
    ),
    *("step?/projection_output", "step?/supervised_logits"),
]
_TRAIN_STEP_CASES = [
    *("r18_cifar_b4", "tiny_r18_b4_large_lr", "tiny_r18_b8", "tiny_r18_momentum_b8", "tiny_r18_v1head_b8"),
]

FILES: dict[str, list[str]] = {
    "crop_resize": [
        *("case_names", "eval_case_names", "matrix_*", "centre_crop_table*", "input_u8/*", "case??/image", "*/box*"),
        *("case*/out_h_w", "case*/rows", "case0[1278]/output_tf?", "case09/output_tf2", "case1[0124]/output_tf?"),
        *("eval/*/[cfr]*", "eval/*/*_mean", "eval/*/*_std", "eval/[35][230]*/input_u8", "eval/50x40*/output_tf?"),
        *("eval/32x32*/output_tf2", "eval/333*/output_tf2", "!eval/*/output_tf1_*"),
    ],
    "colour": [
        *("image_names", "*_factors", "*_deltas", "input/*", "jitter/*", "jitter_param/*", "jitter_fixed_order/*"),
        *("*/smooth_8x8", "*/overshoot", "*/pure_colours_and_ties", "*/constant_grey", "*/noise_8x8"),
    ],
    "gaussian_blur": [
        *("case_names", "*/sigma", "*/nominal_kernel_size", "*/kernel_f64", "ones_s2/*"),
        *("input_u8/32", "32_*/output", "input_u8/96", "96_s1.3/*"),
    ],
    "augment_scripted": ["output/*", "param/*", "input_u8/*", "out_size", "num_cases"],
    "random_crop_stats": ["case_names", "*/image_h_w", "*/boxes_y_x_h_w", "*/mean_std_min_max"],
    # Its samples were drawn under a global seed and are not used; see record_views.py.
    "pipeline_stats": ["input_u8", "*/size", "*/strength", "*/blur", "*/view_channel_mean/mean", "*blur0/mean_image"],
    "nt_xent": [
        *("case_names", "hidden/*", "*/temperature", "*/hidden_key", "*/hidden_scale", "*/contrast_acc", "*/*_f64"),
        *("n[28]_d16*/logits_ab", "n64*/grad_rows", "!*/loss_[ab]_f64", "!n64_*/grad_f64", "n64_d16_t0.1/*/grad_f64"),
        *("!n8_d128_t0.05/*/grad_f64", "!n8_d128_t0.5/*/grad_f64", "!n8_d128_t1/*/grad_f64"),
    ],
    "lars": [
        *("learning_rates", "canonical_names", "excluded_*", "init/*", "grads/*", "*/weight_decay", "*/nesterov"),
        *("*/params_f64/*", "*/momentum_f64/*"),
    ],
    "lars_tf1": ["*"],
    "schedule_tf1": ["*"],
    "weight_decay_term": ["*", "!*/tf2_names"],
    "losses_other": ["*"],
    "losses_tf1": ["*"],
    "replicas_2": ["*"],
    "replicas_4": ["*"],
    "default_flags_tf1": ["*"],
    "default_flags_tf2": ["*"],
    "layouts_tf1": ["*"],
    "layouts_tf2": ["*", "!*/tf2_variable_names", "!*head2/*"],
    "ckpt_tf1_r18_w0.0625": ["*"],
    "ckpt_tf2_r18_w0.0625": ["*", "!*/tf2_names", "!*/first_values"],
    "ckpt_tf1_r50_sk_w0.03125": ["*"],
    "ckpt_tf2_r50_sk_w0.03125": ["*", "!*/tf2_names", "!*/first_values"],
    **{f"train_step_{case}": _TRAIN_STEP for case in _TRAIN_STEP_CASES},
    "projection_head": [
        *("case_names", "layers?_in64_*/input", "layers?_in64_*_f64*", "!*/selector-1_f64", "!*/selector0_f64"),
        *("layers3_in512_*/input", "layers3_in512_*/*/output_f64"),
        *("layers?_in64_*/variables/canonical_names", "layers?_in64_*/variables/shapes"),
    ],
    "resnet_r18_w0.0625_cifar_32": _RESNET,
    "resnet_r18_w2_cifar_32": _RESNET,
    "resnet_r18_cifar_32": [*_RESNET, "variables/[!t]*", "train/updated_statistics_f64/*"],
    "resnet_r18_imagenet_64": _RESNET,
    "resnet_r34_cifar_32": _RESNET,
    "resnet_r50_imagenet_64": _RESNET,
    "resnet_r50_sk_imagenet_64": _RESNET,
    "resnet_tf1": ["case_names", "r18_cifar_32/*", "r50_sk_imagenet_64/eval/*"],
    "schedule": ["*"],
}


def keeps(patterns: list[str], name: str) -> bool:
    """Whether the last of the patterns that match `name` keeps it."""
    matching = [p for p in patterns if fnmatch.fnmatch(name, p.removeprefix("!"))]
    return bool(matching) and not matching[-1].startswith("!")


def main() -> None:
    """Writes every file of FILES beside this script and prints its size."""
    source = pathlib.Path(sys.argv[1])
    here = pathlib.Path(__file__).parent
    for name in sys.argv[2:] or FILES:
        patterns = FILES[name]
        with np.load(source / f"{name}.npz", allow_pickle=False) as arrays:
            kept = {k: arrays[k] for k in arrays.files if keeps(patterns, k)}
        np.savez_compressed(here / f"{name}.npz", **kept)
        print(f"{name}: {len(kept)} arrays, {(here / f'{name}.npz').stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
