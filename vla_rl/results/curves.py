"""A plot of learning curves with intervals over runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, PercentFormatter

from vla_rl.results.aggregate import Curve
from vla_rl.results.plots import PALETTE, PLAYING

_INK, _MUTED = "#24292F", "#6E7781"
_STYLES = ("-", "--", ":", "-.")  # distinguish curves when there are more than colours
_LEGEND_WIDTH = 90  # characters that fit side by side


def draw_curves(curves: Sequence[Curve], path: Path, title: str) -> None:
    """Draw success over environment steps, with a band for the interval where there is one.

    Args:
        curves: At least one curve, in the order of the legend.
        path: The PNG to write; missing folders are made.
        title: Title of the plot.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    figure = Figure(figsize=(9, 5), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, curve in enumerate(curves):
        colour, style = PALETTE[i % len(PALETTE)], _STYLES[i // len(PALETTE) % len(_STYLES)]
        if curve.low is not None and curve.high is not None:
            axes.fill_between(
                curve.env_steps, curve.low, curve.high, color=colour, alpha=0.18, lw=0
            )
        axes.plot(curve.env_steps, curve.success, color=colour, ls=style, lw=2, label=_name(curve))
        axes.plot(curve.env_steps[-1:], curve.success[-1:], color=colour, marker="o", ms=4)
    axes.set_title(title, fontsize=11, color=_INK)
    axes.set_xlabel("environment steps", color=_INK)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel("training success, IQM over runs and tasks", color=_INK)
    axes.set_ylim(-0.03, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color="#E6E8EB", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(PLAYING)
    axes.tick_params(colors=_MUTED, length=0)
    longest = max(len(_name(curve)) for curve in curves)
    columns = max(1, min(len(curves), _LEGEND_WIDTH // (longest + 6)))
    banded = any(curve.low is not None for curve in curves)
    figure.legend(
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title="band: 95 % stratified bootstrap interval over runs" if banded else None,
        title_fontsize=8,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _name(curve: Curve) -> str:
    return f"{curve.label} ({curve.runs} {'run' if curve.runs == 1 else 'runs'})"
