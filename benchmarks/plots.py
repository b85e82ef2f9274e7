"""Draw how the costs grow, for the docs: `uv run --all-extras --group bench python -m benchmarks.plots`."""

import sys
from pathlib import Path

from benchmarks import growth
from benchmarks.__main__ import LARGEST, REPETITIONS
from benchmarks._measure import markdown_table

PLOTS = Path(__file__).parents[1] / "docs" / "plots"


def main() -> int:
    """Measure, draw, and print what was drawn."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    curves = growth.curves(REPETITIONS // 200, LARGEST[False])
    mpl.rcParams.update({"svg.hashsalt": "stepwarden", "font.size": 9})
    for against in growth.SIZES:
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            if curve.against == against:
                axes.plot(curve.sizes, curve.microseconds, marker="o", markersize=3, label=curve.what)
        axes.set_xscale("symlog" if 0 in growth.SIZES[against] else "log")
        axes.set_xlabel(against)
        axes.set_ylabel("µs")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(PLOTS / f"{against.replace(' ', '-')}.svg", metadata={"Date": None})
    print(markdown_table(growth.HEADINGS, [curve.cells() for curve in curves]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
