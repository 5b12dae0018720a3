"""`python -m intvit.analysis.plot_presets IN.json OUT.svg`: the figures of `intvit bench presets` as a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def plot(rows: list[dict[str, Any]], target: Path) -> None:
    """One bar a preset: the mean change of top-1 against float, in points, with the share of equal first classes."""
    rows = [row for row in rows if row["preset"] != "float"]
    rows.sort(key=lambda row: row["mean_change"])
    names = [row["preset"].replace(",quant/", ", ") for row in rows]
    changes = [row["mean_change"] for row in rows]
    matplotlib.rcParams["svg.hashsalt"] = "intvit"  # the same figures give the same file
    figure, axes = pyplot.subplots(figsize=(8, 0.36 * len(rows) + 1.2))
    colors = ["#2a6f97" if "true8" in name or name[0] == "w" else "#89c2d9" for name in names]
    bars = axes.barh(names, changes, color=colors)
    axes.bar_label(bars, [f"{change:+.1f}" for change in changes], padding=3, fontsize=9)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.margins(x=0.12)
    axes.set_xlabel("change of top-1 against float, mean over the sets, points")
    axes.set_title("Integers without training: light 16-bit residual stream, dark 8-bit", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)
    pyplot.close(figure)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text())["rows"], Path(sys.argv[2]))
