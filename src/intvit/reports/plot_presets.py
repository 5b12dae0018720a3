"""`python -m intvit.reports.plot_presets IN.json OUT.svg`: the figures of `intvit bench presets` as a plot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.patches import Patch

from intvit.files import write_bytes
from intvit.reports.style import DARK, INK, LIGHT, plot, svg


def bars(rows: list[dict[str, Any]]) -> bytes:
    """One bar a preset, as SVG: the mean change of top-1 against float, in points."""
    rows = [row for row in rows if row["preset"] != "float"]
    rows.sort(key=lambda row: row["mean_change"])
    names = [row["preset"].replace(",quant/", ", ") for row in rows]
    changes = [row["mean_change"] for row in rows]
    narrow = ["true8" in name or name[0] == "w" for name in names]
    with plot(height=0.3 * len(rows) + 1.0) as (figure, axes):
        drawn = axes.barh(names, changes, color=[DARK if eight else LIGHT for eight in narrow])
        axes.bar_label(drawn, [f"{change:+.1f}" for change in changes], padding=3, fontsize=8)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("change of top-1 against float, mean over the sets, points")
        axes.set_title("Integers without training")
        streams = [Patch(color=LIGHT, label="16-bit residual stream"), Patch(color=DARK, label="8-bit residual stream")]
        axes.legend(handles=streams, loc="lower left", bbox_to_anchor=(0, 0.2))
    return svg(figure)


if __name__ == "__main__":
    write_bytes(Path(sys.argv[2]), bars(json.loads(Path(sys.argv[1]).read_text())["rows"]))
