"""The type and the range of every key of a config, checked at the door by one mechanism, before anything is read.

A rule is wide: what no run of any kind could have is refused here, with the key's full name. What depends on other keys
or on the data (a batch that the devices divide, a split that exists) is checked by the function that knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from simclr_jax import base

_MOST = 2**31 - 1  # the count of updates is an int32
_LONGEST_WORD, _LARGEST = 8000, 1e300
_KINDS = {"switch": "True or False", "whole": "a whole number", "number": "a number", "word": "text"}


class Rule(NamedTuple):
    """What a key takes.

    kind: of `_KINDS`. low, high: the range of numbers, both included, but for `low` where `above`.
    many: how many numbers a tuple may have; () for a single value, (1,) beside it for what may also be one alone.
    is_open: whether None is a value.
    """

    kind: str
    low: float = 0.0
    high: float = float(_MOST)
    above: bool = False
    many: Sequence[int] = ()
    alone: bool = True
    is_open: bool = False

    def __str__(self) -> str:
        words = _KINDS[self.kind]
        if self.kind in ("whole", "number"):
            lowest = f"above {self.low:.12g} and up to" if self.above else f"from {self.low:.12g} to"
            words += f" {lowest} {self.high:.12g}"
        if self.many:
            counts = "any" if isinstance(self.many, range) else " or ".join(map(str, self.many))
            words = f"{words}, or a tuple of them" if self.alone else f"a tuple of {counts}, each {words}"
        return f"{words}{', or None' if self.is_open else ''}"


def _whole(low: int, high: int = _MOST, **more: Any) -> Rule:
    return Rule("whole", low, high, **more)


def _number(low: float, high: float, **more: Any) -> Rule:
    return Rule("number", low, high, **more)


def _above(low: float, high: float, **more: Any) -> Rule:
    return Rule("number", low, high, above=True, **more)


_WORD, _SWITCH, _SHARE = Rule("word"), Rule("switch"), _number(0, 1)
_OPEN_WORD, _EPOCHS, _STEPS = Rule("word", is_open=True), _number(0, 1e6), _whole(1)
_ANY = range(65)  # of values in a tuple
_PROBABILITY = _number(0, 1, many=range(1, 65))
_DIMENSION, _TEMPERATURE, _WEIGHT = _whole(1, 2**20), _above(0, 1e6), _number(0, 1e6)
_OPEN_DIMENSION = _DIMENSION._replace(is_open=True)

RULES: dict[str, Rule] = {
    "seed": _whole(0, 2**32 - 1),
    **dict.fromkeys(("data.name", "split.train", "split.test", "init.checkpoint", "teacher.checkpoint"), _WORD),
    **dict.fromkeys(("data.data_dir", "data.cache_dir", "split.label_list"), _OPEN_WORD),
    **dict.fromkeys(("init.workdir", "teacher.workdir"), _OPEN_WORD),
    "data.canvas_size": _whole(8, 4096, is_open=True),
    "data.max_corrupt_fraction": _SHARE,
    "data.max_megapixels": _above(0, 1e5, is_open=True),
    "data.sixteen_bit_range": _number(-1e9, 1e9, many=(0, 2), alone=False),
    "data.max_cache_gigabytes": _number(0, 1e9, is_open=True),
    "text.tokenizer": _OPEN_WORD,
    **dict.fromkeys(("text.vocab_size", "text.length"), _whole(3, 2**24)),
    **dict.fromkeys(("feed.kind", "feed.workers", "feed.crop_method"), _WORD),
    "feed.num_workers": _whole(0, 512, is_open=True),
    "split.label_fraction": _above(0, 1, is_open=True),
    **dict.fromkeys(("augment.image_size", "augment.small_image_size"), _whole(1, 4096)),
    "augment.num_views": _whole(1, 64),
    "augment.num_small_views": _whole(0, 64),
    "augment.color_jitter_strength": _number(0, 1.25, many=(4,)),
    **dict.fromkeys(("augment.brightness", "augment.resize", "augment.blur_sigma_per"), _WORD),
    **dict.fromkeys(("augment.crop_sampler", "augment.loop"), _WORD),
    "augment.flip_probability": _SHARE,
    **dict.fromkeys(("augment.color_jitter_probability", "augment.grayscale_probability"), _PROBABILITY),
    **dict.fromkeys(("augment.blur_probability", "augment.solarize_probability"), _PROBABILITY),
    **dict.fromkeys(("augment.turn_probability", "augment.stain_strength"), _SHARE),
    "augment.crop_min_scale": _above(0, 1),
    "augment.small_crop_scale": _above(0, 1, many=(2,), alone=False),
    **dict.fromkeys(("encoder.name", "encoder.stem", "encoder.padding", "encoder.norm"), _WORD),
    **dict.fromkeys(("encoder.remat", "encoder.dtype"), _WORD),
    "encoder.width_multiplier": _above(0, 64),
    "encoder.group_sizes": _whole(1, 256, many=range(7), alone=False),
    **dict.fromkeys(("encoder.patch_size", "encoder.position_grid"), _whole(1, 4096)),
    "encoder.num_heads": _whole(0, 4096),
    **dict.fromkeys(("encoder.pool", "encoder.positions", "encoder.design"), _WORD),
    "encoder.freeze_patches": _SWITCH,
    **dict.fromkeys(("encoder.sk_ratio", "encoder.se_ratio"), _SHARE),
    "encoder.mean": _number(-1e6, 1e6, many=(0, 3), alone=False),
    "encoder.std": _above(0, 1e6, many=(0, 3), alone=False),
    **dict.fromkeys(("method.name", "method.loss_form", "method.bn_per", "method.target_decay_schedule"), _WORD),
    **dict.fromkeys(("method.objective", "method.text_attention", "method.text_activation"), _WORD),
    **dict.fromkeys(("method.pred_out_norm", "method.dtype"), _WORD),
    **dict.fromkeys(("method.text_width", "method.text_num_layers", "method.text_num_heads"), _DIMENSION),
    **dict.fromkeys(("method.caption_num_layers", "method.memory_length"), _DIMENSION),
    **dict.fromkeys(("method.contrastive_weight", "method.caption_weight", "method.matching_weight"), _WEIGHT),
    "method.num_proj_layers": _whole(0, 64),
    "method.num_negatives": _whole(0, 2**26),
    **dict.fromkeys(("method.proj_out_dim", "method.pred_hidden_dim"), _DIMENSION),
    "method.proj_hidden_dim": _OPEN_DIMENSION,
    **dict.fromkeys(("method.temperature", "method.epsilon", "method.loss_scale", "method.sigma"), _TEMPERATURE),
    "method.base_temperature": _TEMPERATURE._replace(is_open=True),
    **dict.fromkeys(("method.supervised_weight", "method.redundancy_weight", "method.covariance_weight"), _WEIGHT),
    **dict.fromkeys(("method.invariance_weight", "method.variance_weight"), _WEIGHT),
    **dict.fromkeys(("method.target_decay", "method.label_weight", "method.label_smoothing"), _SHARE),
    "method.ft_proj_selector": _whole(-64, 64),
    "method.bn_splits": _whole(1, 2**20),
    "method.queue_length": _whole(0, 2**26),
    "method.num_prototypes": _whole(2, 2**20),
    **dict.fromkeys(("method.freeze_prototypes_steps", "method.queue_starts_at_step"), _whole(0)),
    "method.sinkhorn_iterations": _whole(0, 1000),
    **dict.fromkeys(("optimizer.name", "optimizer.rate_place", "optimizer.decayed"), _WORD),
    "optimizer.constant_rate_for": _WORD,
    "optimizer.weight_decay": _number(0, 1e3),
    **dict.fromkeys(("optimizer.momentum", "optimizer.b2"), _SHARE),
    "optimizer.eps": Rule("number", low=0.0, high=1.0, above=True),
    "optimizer.nesterov": _SWITCH,
    "optimizer.vector_rate_factor": _number(0, 1e6),
    **dict.fromkeys(("schedule.base_learning_rate", "schedule.warmup_start"), _number(0, 1e38)),
    **dict.fromkeys(("schedule.learning_rate_scaling", "schedule.decay", "schedule.warmup_end"), _WORD),
    "schedule.warmup_epochs": _EPOCHS,
    "schedule.final_fraction": _SHARE,
    **dict.fromkeys(("schedule.drop_epochs", "schedule.restart_epochs"), _EPOCHS._replace(many=_ANY, alone=False)),
    "train.batch_size": _whole(1, 2**24),
    "train.num_chunks": _whole(1, 2**20),
    **dict.fromkeys(("train.bn_group", "train.parameter_sharding"), _WORD),
    **dict.fromkeys(("train.fused_conv_bn", "train.deterministic", "train.freeze_encoder"), _SWITCH),
    "train.stretch_schedule": _SWITCH,
    "train.num_epochs": _above(0, 1e6),
    "train.steps_per_dispatch": _whole(1, 2**20),
    **dict.fromkeys(("train.log_every_steps", "train.checkpoint_every_steps", "train.keep_checkpoints"), _STEPS),
    "train.evaluate_every_epochs": _EPOCHS,
    "train.max_resident_gigabytes": _number(0, 1e9, is_open=True),
    "probe.knn_k": _STEPS,
    "probe.more_knn_k": _whole(1, many=_ANY, alone=False),
    "probe.knn_temperature": _TEMPERATURE,
    "probe.knn_weights": _WORD,
    "probe.label_fractions": _above(0, 1, many=range(1, 65), alone=False),
    "probe.label_free_rows": _whole(0),
    "probe.batch_size": _whole(1, 2**24),
}
# What a run that starts from another one may leave open, to have what that run has.
INHERITED = ("data.name", "split.train", "split.test", "augment.image_size", "augment.resize")


def check(config: Mapping[str, Any], *, remedies: Mapping[str, Any] | None = None) -> None:
    """`check_values`, and that there is no key that nobody reads.

    Args:
        config: nested, as plain dicts.
        remedies: "section.key" -> a value that is valid, for the message.

    Raises:
        base.InputError: one line with the key's full name: its rule; what was received; a value to use.
    """
    check_values(config, remedies=remedies)
    for key in _values(config):
        if key not in (remedies or {}):
            _check_known(key)


def check_values(config: Mapping[str, Any], *, remedies: Mapping[str, Any] | None = None) -> None:
    """Makes sure that every value of a config is of the type and in the range of its key.

    Keys without a rule, of a method that is not of this package or of another version, take any plain value: a number,
    text, None, or a tuple of these.

    Raises:
        base.InputError: as for `check`.
    """
    sections = {key.partition(".")[0] for key in RULES if "." in key}
    no_sections = [name for name in config if name in sections and not isinstance(config[name], Mapping)]
    if no_sections:
        got = _shown(config[no_sections[0]])
        raise base.InputError(
            f"{no_sections[0]} must be a section of keys; got {got}. Start from default.get_config()."
        )
    starts = any(config.get(name, {}).get("workdir") is not None for name in ("init", "teacher"))
    for key, value in _values(config).items():
        if not _is_valid(key, value, starts=starts):
            _refuse(key, value, (remedies or {}).get(key))


def _values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values by "section.key"; a mapping in the place of a value is one, but for what a teacher's network is."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(value, Mapping) or name in RULES:
            found[str(name)] = value
            continue
        for key, item in value.items():
            is_network = name == "teacher" and key in ("encoder", "head") and isinstance(item, Mapping)
            found |= base.flat(item, f"teacher.{key}.") if is_network else {f"{name}.{key}": item}
    return found


def _check_known(key: str) -> None:
    """Raises InputError for a key that nobody reads; a method may be the user's own, with keys of its own."""
    section = key.partition(".")[0]
    if rule_of(key) is None and section not in ("method", "teacher"):
        known = [name.partition(".")[2] for name in RULES if name.startswith(f"{section}.")]
        where = (
            f"the section {section} has {', '.join(known)}" if known else "it is in no section of configs/default.py"
        )
        raise base.InputError(f"{base.one_line(key, 60)} is no key of a config; {where}.")


def _is_valid(key: str, value: Any, *, starts: bool) -> bool:
    rule = rule_of(key)
    if value is None and key in INHERITED:
        return starts
    return _is_plain(value) if rule is None else fits(rule, value)


def rule_of(key: str) -> Rule | None:
    """The rule of "section.key"; what a teacher's network is built from has those of an own one."""
    return RULES.get(key.removeprefix("teacher.") if key.startswith("teacher.encoder.") else key)


def fits(rule: Rule, value: Any) -> bool:
    """Whether a key of this rule may have the value."""
    if value is None:
        return rule.is_open
    if isinstance(value, tuple | list):
        return len(value) in rule.many and all(_fits_one(rule, item) for item in value)
    return (rule.alone or not rule.many) and _fits_one(rule, value)


def _fits_one(rule: Rule, value: Any) -> bool:
    if rule.kind == "switch":
        return isinstance(value, bool)
    if rule.kind == "word":
        return isinstance(value, str) and len(value) <= _LONGEST_WORD
    if isinstance(value, bool) or not isinstance(value, int if rule.kind == "whole" else int | float):
        return False
    return (rule.low < value if rule.above else rule.low <= value) and value <= rule.high


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return len(value) <= len(_ANY) and all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) <= _LARGEST)


def _refuse(key: str, value: Any, remedy: Any) -> None:
    rule = rule_of(key)
    words = "a plain value: a finite number, text, None or a tuple of these" if rule is None else str(rule)
    use = "" if remedy is None or remedy == value else f" Use for example {base.one_line(repr(remedy), 60)}."
    raise base.InputError(f"{base.one_line(key, 60)} must be {words}; got {_shown(value)}.{use}")


def _shown(value: Any) -> str:
    try:
        return base.one_line(repr(value), 60)
    except Exception:  # a number of more digits than Python writes, or an object of the user's own
        return f"a {type(value).__name__}"
