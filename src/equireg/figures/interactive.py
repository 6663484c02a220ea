"""Figure 2 to move about in: one HTML page with its library in it, which needs no network."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.layouts import gridplot
from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    HoverTool,
    Line,
    MultiLine,
    NumeralTickFormatter,
)
from bokeh.models.renderers import GlyphRenderer
from bokeh.plotting import figure
from bokeh.resources import Resources

from equireg.figures.curves import Curve
from equireg.figures.style import COLOURS
from equireg.figures.typeset import typeset
from equireg.plan import Condition
from equireg.spelling import spell_gamma

WIDTH, HEIGHT = 560, 320  # of a panel, in pixels
TOOLS = "pan,box_zoom,wheel_zoom,reset,save"

PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Distance to E along training</title>
<style>
body {{ font: 15px/1.4 "DejaVu Sans", Verdana, sans-serif; color: #222; background: #fff;
  margin: 1em auto; padding: 0 1em; max-width: 1160px; }}
h1 {{ font-size: 1.2em; margin: 0 0 0.3em; }}
p {{ margin: 0 0 0.8em; }}
b {{ font-weight: 600; }}
/* The library draws in ink on paper: turned over in the dark, colours kept. */
@media (prefers-color-scheme: dark) {{
  body {{ color: #e3e7eb; background: #14181d; }}
  #figure, b {{ filter: invert(0.94) hue-rotate(180deg) brightness(1.35); }}
}}
</style>
</head>
<body>
<h1>Distance to E along training, a panel per penalty γ</h1>
<p>{modes}: every run thinly, the median over the seeds boldly{dashed}. Point at a line for its run,
step and distance; drag to move, choose a tool above the panels to zoom. The panels move
together.</p>
<noscript>This figure needs JavaScript.</noscript>
<div id="figure"></div>
<script>{library}</script>
<script>
const item = {item}
// In one column where there is no room for more.
if (matchMedia("(max-width: 700px)").matches)
    item.doc.roots[0].attributes.children.forEach((cell, i) => {{ cell[1] = i; cell[2] = 0 }})
Bokeh.embed.embed_item(item).then(() => {{ document.documentElement.dataset.state = "drawn" }})
</script>
</body>
</html>
"""


def distance_page(
    runs: Mapping[Condition, Mapping[int, Curve]],
    medians: Mapping[Condition, Curve],
    predicted: Mapping[Condition, Curve],
) -> str:
    """The page; runs: the curves by condition and seed, medians: one per condition.

    predicted: as many or fewer; shown up to the highest point of the others.
    The same curves give the same page in a process of its own: the library counts its elements.
    """
    gammas = sorted({condition.gamma for condition in medians})
    shown = [*medians.values(), *(curve for some in runs.values() for curve in some.values())]
    highest = max(float(np.nanmax(curve.distances, initial=0.0)) for curve in shown)
    panels: list[figure] = []
    for gamma in gammas:
        panel = figure(
            title=typeset(f"γ = {spell_gamma(gamma)}"),
            width=WIDTH,
            height=HEIGHT,
            tools=TOOLS,
            active_scroll=None,  # the wheel scrolls the page until its tool is chosen
            y_axis_type="log",
            x_axis_label="training step",
            y_axis_label="distance to E",
        )
        if panels:
            panel.x_range, panel.y_range = panels[0].x_range, panels[0].y_range
        panel.xaxis.ticker = BasicTicker(desired_num_ticks=4)  # on a telephone, too
        panel.xaxis.formatter = NumeralTickFormatter(format="0,0")
        present = [condition for condition in medians if condition.gamma == gamma]
        for condition in present:
            _add_runs(panel, condition, runs.get(condition, {}))
        for condition in present:
            _add_median(panel, condition, medians[condition])
        for condition in present:
            if condition in predicted:
                _add_predicted(panel, condition, predicted[condition], highest)
        panels.append(panel)
    columns = 2 if len(panels) <= 4 else 3
    grid = gridplot([*panels], ncols=columns, sizing_mode="scale_width", toolbar_location="above")
    (library, *_) = Resources(mode="inline", components=["bokeh"]).js_raw
    modes = sorted({condition.mode for condition in medians}, reverse=True)
    return PAGE.format(
        dashed=", the predicted one dashed" if predicted else "",
        modes=" and ".join(f'<b style="color: {COLOURS[mode]}">{mode}</b>' for mode in modes),
        library=library,
        item=json.dumps(json_item(grid, ID("figure")), separators=(",", ":"), ensure_ascii=False),
    )


def _add_runs(panel: figure, condition: Condition, curves: Mapping[int, Curve]) -> None:
    source = ColumnDataSource(
        {
            "seed": list(curves),
            "xs": [curve.steps.astype(np.int32) for curve in curves.values()],
            "ys": [curve.distances.astype(np.float32) for curve in curves.values()],
        }
    )
    colour = COLOURS[condition.mode]
    lines = panel.multi_line(
        "xs",
        "ys",
        source=source,
        line_color=colour,
        line_alpha=0.3,
        line_width=0.7,
    )
    lines.hover_glyph = MultiLine(xs="xs", ys="ys", line_color=colour, line_width=2.5)
    _add_hover(panel, lines, f"{condition.mode}, seed @seed")


def _add_median(panel: figure, condition: Condition, curve: Curve) -> None:
    colour = COLOURS[condition.mode]
    panel.line(curve.steps, curve.distances, line_color="white", line_width=5)
    line = panel.line(curve.steps, curve.distances, line_color=colour, line_width=3)
    _add_hover(panel, line, f"{condition.mode}, median")


def _add_predicted(panel: figure, condition: Condition, curve: Curve, highest: float) -> None:
    distances = np.where(curve.distances <= highest, curve.distances, np.nan)
    line = panel.line(curve.steps, distances, line_color="black", line_dash=[4, 3])
    _add_hover(panel, line, f"{condition.mode}, predicted")


def _add_hover(
    panel: figure, lines: GlyphRenderer[MultiLine] | GlyphRenderer[Line], run: str
) -> None:
    """Name the line under the pointer, and its nearest recorded point."""
    tips = [("run", run), ("step", "$snap_x{0,0}"), ("distance", "$snap_y{0.00000}")]
    hover = HoverTool(
        renderers=[lines], tooltips=tips, line_policy="nearest", point_policy="snap_to_data"
    )
    hover.visible = False  # in the toolbar: it is always on
    panel.add_tools(hover)
