"""Numbers and tables as Markdown."""

from __future__ import annotations

from typing import Any


def percent(estimate: list[float]) -> str:
    """``62 % [52, 71]``."""
    value, low, high = (100 * share for share in estimate[:3])
    return f"{value:.0f} % [{max(low, 0):.0f}, {min(high, 100):.0f}]"


def points(difference: list[float]) -> str:
    """``+31 [+20, +41]``."""
    return "{:+.0f} [{:+.0f}, {:+.0f}]".format(*(100 * share for share in difference[:3]))


def table(*rows: list[str]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def origin(result: dict[str, Any]) -> str:
    """Where a result was measured."""
    machine = result["machine"]
    cores = machine["cores"]
    where = f"{cores} core{'s' if cores > 1 else ''} of an {machine['processor']}"
    return f"Measured {result['date']} at `{result['git']}` on {where}, no GPU."


ONE_HORIZON = "Only one horizon was measured: slowness counts as failure."


def within(*horizons: int) -> str:
    """``within 100/90/90 steps``."""
    shown = horizons[:1] if len(set(horizons)) == 1 else horizons
    return f"within {'/'.join(map(str, shown))} steps"


def median(steps: list[float | None]) -> str:
    """``92 → 61``, a dash where nothing was solved."""
    return " → ".join("-" if each is None else f"{each:.0f}" for each in steps)


def if_one_horizon(result: dict[str, Any]) -> str:
    """A sentence for results with a single horizon; empty for others."""
    return "" if "generous" in result else f"{ONE_HORIZON} "


def before_after(found: dict[str, list[float]]) -> list[str]:
    return [percent(found["before"]), percent(found["after"]), points(found["difference"])]


def usual_length(found: dict[str, Any]) -> str:
    """Median steps of solved episodes; of earlier results their mean."""
    if "median_steps" in found:
        return "-" if found["median_steps"] is None else f"{found['median_steps']:.0f}"
    mean = found["solved_steps"]
    return f"{mean[0] if isinstance(mean, list) else mean:.0f}"


def number_of_runs(seeds: list[Any]) -> str:
    return (
        f"{len(seeds)} seeds, each with its own demonstrations, weights and starts; mean over "
        "seeds with Student's t interval."
    )


def counted(estimate: list[float], parts: int) -> str:
    """``1.25 [0.80, 1.71]`` of so many parts."""
    value, low, high = (parts * share for share in estimate[:3])
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def number_of_seeds(count: int) -> str:
    return "One seed" if count == 1 else f"{count} seeds"


def joined(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def per_second_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
