"""Plots of galleries as inline SVG: how scores are spread, and what more labels bring."""

from collections.abc import Mapping, Sequence

import numpy as np

from simclr_jax.html_report import figures

_BINS = 60


def histogram(values: np.ndarray, *, name: str, threshold: float, x_label: str) -> str:
    """How often each value occurs, on a logarithmic scale of counts, with a dashed line at a threshold; as SVG.

    Args:
        values: float [N].
        name: see `figures.line_plot`.
        threshold: where the line is.
        x_label: what the values are.
    """
    low, high = float(np.min(values)), float(np.max(values))
    with figures.plot_settings():
        figure, axes = figures.new_figure(7.0, 2.8)
        width = max(high - low, 1e-6)
        axes.hist(
            np.asarray(values, np.float64), bins=_BINS, range=(low, low + width), color=figures.ACCENT, alpha=0.85
        )
        axes.set_yscale("symlog")
        axes.axvline(threshold, color=figures.MUTED, linestyle=(0, (4, 3)), linewidth=1.4)
        axes.set_xlabel(x_label, color=figures.MUTED)
        axes.set_ylabel("pictures", color=figures.MUTED)
        return figures.to_svg(figure, name)


def efficiency(series: Mapping[str, Sequence[tuple[int, float, float]]], *, name: str) -> str:
    """Accuracy over the number of labels, one line a probe, with its standard error, as SVG.

    Args:
        series: probe -> [(labels, accuracy in [0, 1], standard error), ...].
        name: see `figures.line_plot`.
    """
    with figures.plot_settings():
        figure, axes = figures.new_figure(7.0, 3.2)
        for index, (label, points) in enumerate(series.items()):
            labels, accuracy, error = (np.asarray(column, float) for column in zip(*points, strict=True))
            color = figures.PALETTE[index % len(figures.PALETTE)]
            marker = figures.MARKERS[index % len(figures.MARKERS)]
            axes.errorbar(labels, 100 * accuracy, yerr=100 * error, color=color, marker=marker, label=label, capsize=3)
        axes.set_xscale("log")
        ticks = sorted({labels for points in series.values() for labels, _, _ in points})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labels", color=figures.MUTED)
        axes.yaxis.set_major_formatter("{x:g} %")
        axes.legend(frameon=False, loc="best", labelcolor=figures.INK, fontsize=9)
        return figures.to_svg(figure, name)
