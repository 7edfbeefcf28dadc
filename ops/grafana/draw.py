#!/usr/bin/env python3
"""Draws each dashboard with the data that `ops/dev dashboards` found, laid out as its grid says.

  draw.py SHOWN FOLDER    from the file of results, one PNG a dashboard

Not Grafana, but what Grafana would show: the same panels, places, units, words, colours and values.
"""

from __future__ import annotations

import math
import pickle
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from check import STEP_S, VALUES, Series, Shown, Window

WIDTH_PX = 1680
ROW_PX, GAP_PX = 38, 8
BAR_PX, EDGE_PX = 56, 12
DPI = 100

PAGE, PANEL, LINE = "#111217", "#181b1f", "#2c3036"
TEXT, FAINT = "#d8d9da", "#9a9fa6"
COLOURS = {
    "green": "#73bf69",
    "dark-green": "#37872d",
    "yellow": "#f2cc0c",
    "dark-yellow": "#b8901a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "dark-red": "#c4162a",
    "blue": "#5794f2",
    "light-blue": "#8ab8ff",
    "purple": "#b877d9",
    "light-purple": "#deb6f2",
}
PALETTE = [
    "#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#6ed0e0",
    "#37872d", "#fade2a", "#447ebc", "#c15c17", "#6ed0e0", "#d683ce", "#e5ac0e", "#7eb26d",
]  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels from the upper left corner."""

    x: float
    y: float
    w: float
    h: float

    def inset(self, left: float, top: float, right: float, bottom: float) -> Box:
        return Box(self.x + left, self.y + top, self.w - left - right, self.h - top - bottom)


class Canvas:
    """A picture that is drawn upon in pixels."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH_PX / DPI, height / DPI), dpi=DPI, facecolor=PAGE)
        agg: Any = FigureCanvasAgg(self.figure)
        self.renderer = agg.get_renderer()
        self.flat = self.figure.add_axes((0, 0, 1, 1))
        self.flat.set_xlim(0, WIDTH_PX)
        self.flat.set_ylim(height, 0)
        self.flat.axis("off")

    def width(self, text: str, size: float, bold: bool = False) -> float:
        font = FontProperties(size=size * 72 / DPI, weight="bold" if bold else "normal")
        return float(self.renderer.get_text_width_height_descent(text, font, False)[0])

    def fit(self, text: str, size: float, width: float, bold: bool = False) -> str:
        """The text, shortened if need be."""
        if self.width(text, size, bold) <= width:
            return text
        while text and self.width(text + "…", size, bold) > width:
            text = text[:-1]
        return text.rstrip() + "…" if text else ""

    def write(
        self, x: float, y: float, text: str, size: float, colour: str = TEXT, bold: bool = False, align: str = "left"
    ) -> None:
        """`y` is the middle of the line."""
        self.flat.text(
            x, y, text.replace("$", r"\$"), fontsize=size * 72 / DPI, color=colour, ha=align, va="center_baseline",
            weight="bold" if bold else "normal", clip_on=False,
        )  # fmt: skip

    def fill(self, box: Box, colour: str, radius: float = 0, edge: str | None = None, alpha: float = 1) -> None:
        style: dict[str, Any] = {
            "facecolor": colour,
            "edgecolor": edge or "none",
            "linewidth": 1 if edge else 0,
            "alpha": alpha,
        }
        if radius:
            shape = f"round,pad=0,rounding_size={radius}"
            self.flat.add_patch(FancyBboxPatch((box.x, box.y), box.w, box.h, boxstyle=shape, **style))
        else:
            self.flat.add_patch(Rectangle((box.x, box.y), box.w, box.h, **style))

    def axes(self, box: Box) -> Axes:
        made = self.figure.add_axes(
            (box.x / WIDTH_PX, 1 - (box.y + box.h) / self.height, box.w / WIDTH_PX, box.h / self.height)
        )
        made.set_facecolor("none")
        for side in ("top", "right", "left"):
            made.spines[side].set_visible(False)
        made.spines["bottom"].set_color(LINE)
        made.tick_params(colors=FAINT, labelsize=10.5 * 72 / DPI, length=0, pad=4)
        made.grid(True, color=LINE, linewidth=0.7)
        made.set_axisbelow(True)
        return made


# --- Values ---------------------------------------------------------------------

SCALES: dict[str, tuple[float, Sequence[str]]] = {
    "watt": (1000, [" W", " kW", " MW", " GW"]),
    "kwatth": (1000, [" kWh", " MWh", " GWh"]),
    "bytes": (1024, [" B", " KiB", " MiB", " GiB", " TiB"]),
    "none": (1000, ["", " K", " Mil"]),
    "ops": (1000, [" ops/s", "K ops/s"]),
    "cpm": (1000, [" c/m", "K c/m"]),
}
SECONDS = [(1e-6, 1e-9, "ns"), (1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (60, 1, "s"), (3600, 60, "min"),
           (86_400, 3600, "hours"), (7 * 86_400, 86_400, "days"), (365 * 86_400, 7 * 86_400, "weeks"),
           (math.inf, 365 * 86_400, "years")]  # fmt: skip


def spell(value: float, unit: str, decimals: int | None) -> str:
    """As Grafana writes a value in this unit."""
    if unit == "percentunit":
        return plain(value * 100, decimals) + "%"
    if unit == "percent":
        return plain(value, decimals) + "%"
    if unit == "locale":
        return f"{value:,.{2 if decimals is None else decimals}f}"
    if unit == "s":
        if value == 0:
            return "0 s"
        for below, one, name in SECONDS:
            if abs(value) < below:
                return f"{plain(value / one, decimals)} {name}"
    factor, names = SCALES.get(unit, (math.inf, [""]))
    at = 0
    while abs(value) >= factor and at + 1 < len(names):
        value, at = value / factor, at + 1
    return plain(value, decimals) + names[at]


def plain(value: float, decimals: int | None) -> str:
    if decimals is not None:
        text = f"{value:.{decimals}f}"
    elif value == int(value):
        text = f"{int(value)}"
    else:
        digits = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 100 else 0
        text = f"{value:.{min(digits, 4)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def hex_of(name: str) -> str:
    return COLOURS.get(name, name)


@dataclass(frozen=True)
class Style:
    """The field settings of a panel."""

    unit: str
    decimals: int | None
    words: dict[str, dict[str, Any]]
    steps: list[dict[str, Any]]
    no_value: str

    @staticmethod
    def of(panel: dict[str, Any]) -> Style:
        field = panel["fieldConfig"]["defaults"]
        words = words_of(field.get("mappings", []))
        steps = field.get("thresholds", {}).get("steps", [])
        return Style(field["unit"], field.get("decimals"), words, steps, field.get("noValue", "No data"))

    def say(self, value: float) -> str:
        word = self.words.get(plain(value, None))
        return str(word["text"]) if word else spell(value, self.unit, self.decimals)

    def colour(self, value: float) -> str:
        word = self.words.get(plain(value, None))
        if word:
            return hex_of(word["color"])
        found = "green"
        for step in self.steps:
            if step["value"] is None or value >= step["value"]:
                found = step["color"]
        return hex_of(found)


def words_of(mappings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {value: word for mapping in mappings for value, word in mapping["options"].items()}


# --- Panels ---------------------------------------------------------------------


def draw_large(canvas: Canvas, box: Box, shown: Shown, _: Window) -> None:
    style = Style.of(shown.panel)
    inner = box.inset(1, 30, 1, 1)
    if not shown.series:
        canvas.write(box.x + box.w / 2, inner.y + inner.h / 2, style.no_value, 24, FAINT, align="center")
        return
    count = len(shown.series)
    stands = inner.h > inner.w / 2
    for at, series in enumerate(shown.series):
        part = (
            Box(inner.x, inner.y + inner.h * at / count, inner.w, inner.h / count - 1)
            if stands
            else Box(inner.x + inner.w * at / count, inner.y, inner.w / count - 1, inner.h)
        )
        value = series.values[-1]
        canvas.fill(part.inset(3, 3, 3, 3), style.colour(value), 3, alpha=0.9)
        text = style.say(value)
        size = min(40.0, part.h * 0.5)
        while size > 14 and canvas.width(text, size, True) > part.w - 24:
            size -= 1
        middle = part.y + part.h / 2
        name = series.name if series.name and "=" not in series.name else ""
        if name:
            low = min(part.h * 0.34, size * 0.75)
            canvas.write(part.x + part.w / 2, middle - low * 0.5 - 6, text, size, "#ffffff", True, "center")
            name = canvas.fit(name, 13, part.w - 20)
            canvas.write(part.x + part.w / 2, middle + low, name, 13, "#ffffff", align="center")
        else:
            canvas.write(part.x + part.w / 2, middle, text, size, "#ffffff", True, "center")


def draw_lines(canvas: Canvas, box: Box, shown: Shown, window: Window) -> None:
    panel, style = shown.panel, Style.of(shown.panel)
    custom = panel["fieldConfig"]["defaults"].get("custom", {})
    fixed = {
        override["matcher"]["options"]: setting["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
        for setting in override["properties"]
        if setting["id"] == "color"
    }
    colours = [hex_of(fixed.get(series.name, PALETTE[at % len(PALETTE)])) for at, series in enumerate(shown.series)]
    legend_h = draw_legend(canvas, box, [series.name for series in shown.series], colours)
    field = panel["fieldConfig"]["defaults"]
    is_stacked = custom.get("stacking", {}).get("mode") == "normal"
    axes = canvas.axes(box.inset(66, 40, 16, legend_h + 30))
    axes.set_xlim(window.start, window.end)
    grid = [window.start + STEP_S * at for at in range(round((window.end - window.start) / STEP_S) + 1)]
    floor = [0.0] * len(grid)
    under: list[tuple[list[float], str]] = []
    for series, colour in zip(shown.series, colours, strict=True):
        values = on_grid(series, grid)
        if is_stacked:
            top = [low + (0 if math.isnan(value) else value) for low, value in zip(floor, values, strict=True)]
            if custom.get("drawStyle") == "bars":
                heights = [high - low for high, low in zip(top, floor, strict=True)]
                axes.bar(grid, heights, width=STEP_S * 0.85, bottom=floor, color=colour, alpha=0.8, linewidth=0)
            else:
                axes.fill_between(grid, floor, top, step="post", color=colour, alpha=0.55, linewidth=0)
                edge = [math.nan if high == low else high for high, low in zip(top, floor, strict=True)]
                axes.step(grid, edge, where="post", color=colour, linewidth=1)
            floor = top
        else:
            axes.plot(grid, values, color=colour, linewidth=1.6, solid_joinstyle="round")
            under.append((values, colour))
    scale(axes, shown, field, floor if is_stacked else None)
    for values, colour in under:
        base = max(0.0, axes.get_ylim()[0]) if axes.get_ylim()[1] > 0 else 0.0
        axes.fill_between(grid, [base] * len(grid), values, color=colour, alpha=0.07, linewidth=0)
    if style.unit == "bytes":
        power = 1024 ** max(0, math.floor(math.log(max(1.0, axes.get_ylim()[1]), 1024)))
        ticks = MaxNLocator(5).tick_values(0, axes.get_ylim()[1] / power)
        axes.yaxis.set_major_locator(
            FixedLocator([tick * power for tick in ticks if 0 <= tick * power <= axes.get_ylim()[1]])
        )
    else:
        whole = style.decimals == 0 and style.unit == "none"
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=whole, min_n_ticks=2))
    tick_decimals = None if style.unit != "percentunit" else style.decimals
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: spell(round(value, 9), style.unit, tick_decimals)))
    time_axis(axes, window)


def on_grid(series: Series, grid: list[float]) -> list[float]:
    there = {round(at - grid[0]): value for at, value in zip(series.times, series.values, strict=True)}
    return [there.get(round(at - grid[0]), math.nan) for at in grid]


def scale(axes: Axes, shown: Shown, field: dict[str, Any], tops: list[float] | None) -> None:
    values = tops or [value for series in shown.series for value in series.values] or [0.0]
    low, high = min(values), max(values)
    if tops:
        low = 0.0
    custom = field.get("custom", {})
    low = min(low, field.get("min", low), custom.get("axisSoftMin", low))
    high = max(high, custom.get("axisSoftMax", high))
    high = max(high, field.get("max", high) if field["unit"] != "percentunit" or low > 0.5 else high)
    if low == high:
        low, high = (low - 1, high + 1) if "min" not in field else (low, high + 1)
    room = (high - low) * 0.08
    below = 0.0 if low == field.get("min") or tops else room
    above = room if high != field.get("max") else room * 0.4
    axes.set_ylim(low - below, high + above)


def time_axis(axes: Axes, window: Window) -> None:
    minutes = 5 if axes.get_window_extent().width > 420 else 10
    first = math.ceil(window.start / (minutes * 60)) * minutes * 60
    axes.xaxis.set_major_locator(FixedLocator(list(range(first, int(window.end) + 1, minutes * 60))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{datetime.fromtimestamp(at, UTC):%H:%M}"))


def draw_legend(canvas: Canvas, box: Box, names: list[str], colours: list[str]) -> float:
    """At the bottom, two lines of it at most. Returns its height."""
    size, height, swatch = 11.5, 19, 20
    lines: list[list[tuple[str, str]]] = [[]]
    left = box.w - 24
    for at, (name, colour) in enumerate(zip(names, colours, strict=True)):
        text = canvas.fit(name, size, box.w - 60)
        needs = swatch + canvas.width(text, size) + 14
        more = f"+ {len(names) - at} more"
        spare = canvas.width(more, size) + 14 if len(lines) == 2 and at + 1 < len(names) else 0
        if needs + spare > left and lines[-1]:
            if len(lines) == 2:
                lines[-1].append((more, ""))
                break
            lines.append([])
            left = box.w - 24
        lines[-1].append((text, colour))
        left -= needs
    for row, line in enumerate(lines):
        x, y = box.x + 12, box.y + box.h - 12 - height * (len(lines) - 1 - row)
        for text, colour in line:
            if colour:
                canvas.fill(Box(x, y - 2, 14, 4), colour, 1.5)
            canvas.write(x + (swatch if colour else 0), y, text, size, FAINT)
            x += swatch + canvas.width(text, size) + 14
    return height * len(lines)


def draw_timeline(canvas: Canvas, box: Box, shown: Shown, window: Window) -> None:
    style = Style.of(shown.panel)
    labels = [series.name for series in shown.series]
    left = min(180.0, max([canvas.width(label, 12) for label in labels] or [0]) + 24)
    inner = box.inset(left, 40, 16, 30)
    axes = canvas.axes(inner)
    axes.set_xlim(window.start, window.end)
    axes.set_yticks([])
    axes.grid(False)
    time_axis(axes, window)
    across = inner.w / (window.end - window.start)
    height = inner.h / max(1, len(labels))
    for row, series in enumerate(shown.series):
        y = inner.y + row * height
        canvas.write(box.x + 12, y + height / 2, canvas.fit(series.name, 12, left - 20), 12, TEXT)
        for begin, end, value in runs(series):
            x = inner.x + (begin - window.start) * across
            wide = (min(end, window.end) - begin) * across
            if wide <= 0:
                continue
            bar = Box(x, y + height * 0.1, wide, height * 0.8)
            canvas.fill(bar, style.colour(value), alpha=0.85)
            text = style.say(value)
            if canvas.width(text, 11) < wide - 8 and height > 13:
                canvas.write(x + wide / 2, y + height / 2, text, 11, ink(style.colour(value)), align="center")


def runs(series: Series) -> list[tuple[float, float, float]]:
    """From when to when which value held; ends where nothing is known."""
    found: list[tuple[float, float, float]] = []
    for at, value in zip(series.times, series.values, strict=True):
        if found and found[-1][2] == value and at - found[-1][1] < STEP_S:
            found[-1] = (found[-1][0], at + STEP_S, value)
        else:
            found.append((at, at + STEP_S, value))
    return found


def ink(colour: str) -> str:
    """Black or white, whichever can be read on it."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#111217" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def draw_listing(canvas: Canvas, box: Box, shown: Shown, _: Window) -> None:
    panel = shown.panel
    steps = {step["id"]: step["options"] for step in panel["transformations"]}
    fields = steps["filterFieldsByName"]["include"]["names"]
    titles = [steps["organize"]["renameByName"][field] for field in fields]
    settings = {
        override["matcher"]["options"]: {setting["id"]: setting["value"] for setting in override["properties"]}
        for override in panel["fieldConfig"]["overrides"]
    }
    widths = [settings.get(title, {}).get("custom.width") for title in titles]
    share = (box.w - 16 - sum(width or 0 for width in widths)) / max(1, sum(1 for width in widths if not width))
    lefts, x = [], box.x + 12
    for width in widths:
        lefts.append(x)
        x += width or share
    y = box.y + 52
    for left, width, title in zip(lefts, widths, titles, strict=True):
        canvas.write(left, y, canvas.fit(title, 12, (width or share) - 10, True), 12, "#6e9fff", True)
    line = 27
    room = int((box.h - 70) // line)
    if not shown.series:
        canvas.write(box.x + box.w / 2, y + 40, Style.of(panel).no_value, 14, FAINT, align="center")
    for row, series in enumerate(shown.series):
        y += line
        canvas.fill(Box(box.x + 8, y - line / 2, box.w - 16, 1), LINE)
        if row + 1 == room and len(shown.series) > room:
            canvas.write(box.x + 12, y, f"and {len(shown.series) - row} more, to be scrolled", 12, FAINT)
            break
        for left, width, title, field in zip(lefts, widths, titles, fields, strict=True):
            of = settings.get(title, {})
            text, colour = series.labels.get(field, ""), TEXT
            if field == "Value":
                text = spell(series.values[-1], of.get("unit", "none"), None)
            word = words_of(of.get("mappings", [])).get(text)
            if word:
                text, colour = word["text"], hex_of(word["color"])
            elif "links" in of:
                colour = "#6e9fff"
            canvas.write(left, y, canvas.fit(text, 12.5, (width or share) - 10), 12.5, colour)


def draw_ranks(canvas: Canvas, box: Box, shown: Shown, _: Window) -> None:
    style = Style.of(shown.panel)
    inner = box.inset(12, 44, 16, 10)
    room = max(1, int(inner.h // 26))
    series = shown.series[:room]
    height = min(40.0, inner.h / max(1, len(series)))
    left = min(inner.w * 0.5, max([canvas.width(each.name, 12) for each in series] or [0]) + 14)
    most = shown.panel["fieldConfig"]["defaults"].get("max") or max([each.values[-1] for each in series] or [1])
    right = max([canvas.width(style.say(each.values[-1]), 13, True) for each in series] or [0]) + 14
    for row, each in enumerate(series):
        value, y = each.values[-1], inner.y + row * height
        track = Box(inner.x + left, y + height * 0.18, inner.w - left - right, height * 0.64)
        canvas.write(inner.x, y + height / 2, canvas.fit(each.name, 12, left - 8), 12, TEXT)
        canvas.fill(track, "#22252b", 2)
        wide = max(3.0, track.w * min(1.0, value / most))
        canvas.fill(Box(track.x, track.y, wide, track.h), style.colour(value), 2, alpha=0.9)
        canvas.write(inner.x + inner.w, y + height / 2, style.say(value), 13, style.colour(value), True, "right")


KINDS: dict[str, Callable[[Canvas, Box, Shown, Window], None]] = {
    "stat": draw_large,
    "timeseries": draw_lines,
    "state-timeline": draw_timeline,
    "table": draw_listing,
    "bargauge": draw_ranks,
}


def draw(board: dict[str, Any], shown: list[Shown], window: Window) -> Figure:
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    canvas = Canvas(BAR_PX + rows * ROW_PX + EDGE_PX)
    heading(canvas, board, window)
    column = (WIDTH_PX - 2 * EDGE_PX + GAP_PX) / 24
    for each in shown:
        grid = each.panel["gridPos"]
        box = Box(
            EDGE_PX + grid["x"] * column,
            BAR_PX + grid["y"] * ROW_PX,
            grid["w"] * column - GAP_PX,
            grid["h"] * ROW_PX - GAP_PX,
        )
        canvas.fill(box, PANEL, 3, LINE)
        title = canvas.fit(each.panel["title"], 13.5, box.w - 24, True)
        canvas.write(box.x + 12, box.y + 18, title, 13.5, TEXT, True)
        KINDS[each.panel["type"]](canvas, box, each, window)
    return canvas.figure


def heading(canvas: Canvas, board: dict[str, Any], window: Window) -> None:
    canvas.write(EDGE_PX + 4, BAR_PX / 2, board["title"], 21, TEXT, True)
    x = EDGE_PX + 4 + canvas.width(board["title"], 21, True) + 26
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            text = f"{variable['label']}   {VALUES[variable['name']]}"
            wide = canvas.width(text, 13) + 24
            canvas.fill(Box(x, BAR_PX / 2 - 14, wide, 28), PANEL, 3, LINE)
            canvas.write(x + 12, BAR_PX / 2, text, 13, TEXT)
            x += wide + 12
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (window.start, window.end))
    text = f"{begin:%Y-%m-%d %H:%M} to {end:%H:%M} UTC"
    canvas.write(WIDTH_PX - EDGE_PX - 4, BAR_PX / 2, text, 13, FAINT, align="right")


def main() -> int:
    source, folder = (Path(word) for word in sys.argv[1:])
    window, boards = pickle.loads(source.read_bytes())
    for board, shown in boards:
        name = re.sub(r"[^\w-]", "", board["uid"])
        figure = draw(board, shown, window)
        figure.savefig(folder / f"{name}.png", dpi=DPI, facecolor=PAGE, pil_kwargs={"optimize": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())
