"""A plan as a person reads it in a terminal: what was counted, compiled and modelled, one under the other."""

from collections.abc import Mapping
from typing import Any

from simclr_jax import units


def as_text(plan: Mapping[str, Any]) -> str:
    """The plan as text: a few short tables."""
    run, counted, compiled, modelled = (plan[part] for part in ("run", "counted", "compiled", "modelled"))
    lines = _run_lines(run, counted)
    if isinstance(compiled, str):
        lines += ["", f"Compiled: no; {compiled}"]
    else:
        lines += _compiled_lines(compiled, run)
    return "\n".join(lines + _model_lines(run, counted, modelled))


def _row(label: str, text: str) -> str:
    return f"  {label:<22}{text}"


def _run_lines(run: Mapping[str, Any], counted: Mapping[str, Any]) -> list[str]:
    given, *other = [f"{r['peak']:.4g} by {r['scaling']} from {r['base']:.4g}" for r in counted["learning_rates"]]
    repeated = f" of {run['epoch_size']:,} images" if run["epoch_size"] != run["num_examples"] else ""
    agrees = "".join(f"; {rate}, which agrees with it at batch 4096" for rate in other)
    return [
        f"{run['encoder']} by {run['method']} on {run['devices']} x {run['device']}",
        "",
        "Counted from shapes",
        _row(
            "data",
            f"{run['data']}, {run['num_examples']:,} images, "
            + ("streamed from the host" if run["is_streamed"] else "on every device"),
        ),
        _row(
            "batch",
            f"{run['batch_size']} images; {run['views_per_device']} views of {run['view']} "
            + (f"or {run['small_view']} " if run["small_view"] else "")
            + "pixels on each device",
        ),
        _row("length", f"{counted['num_steps']:,} steps ({run['num_epochs']:g} epochs{repeated})"),
        _row(
            "parameters",
            f"{counted['num_params'] / 1e6:.1f} M, {counted['num_encoder_params'] / 1e6:.1f} M of them the encoder's; "
            f"{counted['num_batch_norms']} BatchNorm layers",
        ),
        _row("an example costs", f"{counted['flops_per_example'] / 1e9:.1f} GFLOP, forward and backward"),
        _row("peak learning rate", given + agrees),
    ]


def _compiled_lines(compiled: Mapping[str, Any], run: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in compiled["versions"].items())
    views = run["views_per_device"]
    traffic = compiled["counted_bytes"] or compiled["program_bytes"]
    lines = [
        "",
        f"Compiled by the compiler for {run['device']} ({compiled['compile_seconds']:.0f} s; {versions}), not run",
        _row(
            "memory of a device",
            f"{units.size(compiled['peak_bytes'])}: {units.size(compiled['argument_bytes'])} arguments, "
            f"{units.size(compiled['temp_bytes'])} temporary",
        ),
        _row("traffic", f"{traffic / views / 1e6:.0f} MB a view; {compiled['num_kernels']} kernels a step"),
    ]
    for kind, sums in compiled["collectives"].items():
        lines.append(_row(kind, f"{sums['count']}, {units.size(sums['bytes'])} a step and device"))
    return lines


def _model_lines(run: Mapping[str, Any], counted: Mapping[str, Any], modelled: Mapping[str, Any]) -> list[str]:
    usable, times = modelled["usable_bytes"], modelled["times"]
    lines = ["", "Modelled (docs/plan.md says how; nothing of it was measured on this hardware)"]
    lines += [
        _row("collectives", f"{modelled['statistics_all_reduces']} all-reduces of statistics, gradients of "
             f"{units.size(modelled['gradient_bytes'])}, projections of {units.size(modelled['projection_bytes'])}"
             if run["devices"] > 1 else "none on one device"),
        _row("usable memory", f"{units.size(usable)} of a device" if usable == usable else "unknown"),
        "",
        "  loss       chunks   memory of a device        largest batch   step",
    ]  # fmt: skip
    lines += [_choice_line(choice, usable) for choice in modelled["choices"]]
    if modelled["choices"][0]["loss"] == "other":
        lines += ["", f"  What the loss of {run['method']} itself takes is not modelled."]
    if times["step"] != times["step"]:
        return [*lines, "", "  No time: nothing is known of the speed of this hardware."]
    whole = times["step"] * counted["num_steps"]
    parts = {
        "network": "expected",
        "statistics": "statistics",
        "projections": "projections",
        "loss": "loss",
        "gradients": "gradients",
    }
    scaling = ", ".join(f"{n}: {100 * e:.0f} %" for n, e in modelled["weak_scaling"].items())
    return [
        *lines,
        "",
        _row("time of a step", ", ".join(f"{label} {units.duration(times[name])}" for label, name in parts.items())),
        _row("rate", f"{modelled['views_per_second_and_device']:,.0f} views/s and device "
             f"({100 * times['roofline'] / times['step']:.0f} % of the roofline)"),
        _row("whole run", f"{units.duration(whole)}, without input stalls, evaluation and restarts"),
        _row("weak scaling", f"{scaling} (devices: efficiency, the same images on each)"),
        _row("host", feeding_line(modelled["feeding"])),
    ]  # fmt: skip


def _choice_line(choice: Mapping[str, Any], usable: float) -> str:
    fits = "fits" if choice["peak_bytes"] <= usable else "does not fit" if usable == usable else ""
    largest = f"{choice['largest_batch']:,}" if usable == usable else "-"
    return (
        f"  {choice['loss']:<11}{choice['num_chunks']:>6}   {units.size(choice['peak_bytes']):>9} {fits:<15} "
        f"{largest:>13}   {units.duration(choice['step_seconds'])}"
    )


def feeding_line(feeding: Mapping[str, Any]) -> str:
    """What `feeding.describe` found, in one line: what the host has to do, and who will wait for whom."""
    if feeding["kind"] == "resident":
        return "sends indices only, the data lie on the devices: the device is the limit"
    work = {"canvas": "rows/s of the decoded images", "streamed": "files/s to decode and cut"}[feeding["kind"]]
    line = (
        f"{feeding['images_per_second']:,.0f} {work} ({units.size(feeding['bytes_per_second'])}/s) "
        f"take {feeding['cores_needed']} cores"
    )
    if feeding["cores"] is None:
        return f"{line}; with fewer the host is the limit"
    return (
        f"{line}; {feeding['cores']} feed {feeding['host_images_per_second']:,.0f}: the {feeding['limit']} is the limit"
    )
