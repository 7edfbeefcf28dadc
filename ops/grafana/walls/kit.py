"""What all dashboards are made of: panels with an id, a place, a description and a runbook link.

An id is never given to another panel of the same dashboard: alerts link to panels by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog import builder as cog
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model

DATASOURCE = common_model.DataSourceRef(type_val="prometheus", uid="${ds}")

# Grafana's own names, so that both of its themes have them.
GREEN, BLUE, PURPLE = "green", "blue", "purple"
YELLOW, ORANGE, RED = "yellow", "orange", "red"
GREY = "#7b8087"
LIGHT_BLUE, DARK_GREEN, LIGHT_PURPLE = "light-blue", "dark-green", "light-purple"

# Every state of a connector, in the order of the contract, with its colour. The number is what a
# state timeline shows as that state.
CONNECTOR_STATES = {
    "available": GREEN,
    "plugged": LIGHT_BLUE,
    "preparing": YELLOW,
    "charging": BLUE,
    "suspended_ev": PURPLE,
    "suspended_evse": LIGHT_PURPLE,
    "finishing": DARK_GREEN,
    "reserved": "dark-yellow",
    "unavailable": ORANGE,
    "faulted": RED,
    "offline": GREY,
    "unknown": "#4d5157",
}
SESSION_PHASES = {
    "preparing": YELLOW,
    "charging": BLUE,
    "suspended_ev": PURPLE,
    "suspended_evse": LIGHT_PURPLE,
    "stopping": ORANGE,
    "idle": DARK_GREEN,
}

# More rows than these are on further pages: thinner ones cannot be read.
TIMELINE_ROWS_MAX = 20

# A dashboard's uid, its title.
DASHBOARDS = {
    "ev-fleet": "Fleet",
    "ev-charge-point": "Charge point",
    "ev-ledger-nats": "Ledger and NATS",
    "ev-reliability": "Reliability",
}


@dataclass(frozen=True)
class Query:
    """An expression and how its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Place:
    """Where a panel is in the grid of 24 columns."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class Head:
    """What every panel has. `runbook` names sections of ops/docs/runbook.md, with blanks between."""

    id: int
    title: str
    description: str
    place: Place
    runbook: str = ""
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Look:
    """How values are shown."""

    unit: str
    decimals: int | None = None
    least: float | None = None
    most: float | None = None
    # From which value on which colour; the first is below all others.
    steps: Sequence[tuple[float | None, str]] = ()
    # The axis shows at least from here to there, whatever the values are.
    axis: tuple[float, float] | None = None
    # The word and colour of single values.
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    no_value: str | None = None


class Builds(Protocol):
    """What the panels' builders have in common."""

    def id(self, id_val: int) -> Self: ...
    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: common_model.DataSourceRef) -> Self: ...
    def grid_pos(self, grid_pos: model.GridPos) -> Self: ...
    def links(self, links: list[cog.Builder[model.DashboardLink]]) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def decimals(self, decimals: float) -> Self: ...
    def min(self, min_val: float) -> Self: ...
    def max(self, max_val: float) -> Self: ...
    def mappings(self, mappings: list[model.ValueMapping]) -> Self: ...
    def thresholds(self, thresholds: cog.Builder[model.ThresholdsConfig]) -> Self: ...
    def color_scheme(self, color: cog.Builder[model.FieldColor]) -> Self: ...
    def no_value(self, no_value: str) -> Self: ...


B = TypeVar("B", bound=Builds)


def _finish(panel: B, head: Head, look: Look) -> B:
    place = head.place
    panel.id(head.id).title(head.title).description(head.description).datasource(DATASOURCE)
    panel.grid_pos(model.GridPos(h=place.h, w=place.w, x=place.x, y=place.y))
    links: list[cog.Builder[model.DashboardLink]] = [
        dashboard.DashboardLink(title).type(model.DashboardLinkType.LINK).url(url) for title, url in head.links
    ]
    for section in head.runbook.split():
        runbook = dashboard.DashboardLink("Runbook: " + section.replace("-", " "))
        runbook.type(model.DashboardLinkType.LINK).url(f"${{runbook}}#{section}")
        links.append(runbook.target_blank(True))
    if links:
        panel.links(links)
    panel.unit(look.unit)
    if look.decimals is not None:
        panel.decimals(look.decimals)
    if look.least is not None:
        panel.min(look.least)
    if look.most is not None:
        panel.max(look.most)
    if look.no_value is not None:
        panel.no_value(look.no_value)
    if look.words:
        panel.mappings([_words(look.words)])
    steps = look.steps or [(None, GREEN)]
    panel.thresholds(
        dashboard.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=value, color=color) for value, color in steps])
    )
    return panel


def _words(words: dict[str, tuple[str, str]]) -> model.ValueMap:
    return model.ValueMap(
        options={
            value: model.ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(words.items())
        }
    )


def _target(number: int, query: Query) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(chr(ord("A") + number)).expr(query.expr)
    made.editor_mode(prometheus_model.QueryEditorMode.CODE).datasource(DATASOURCE)
    return made.legend_format(query.legend) if query.legend else made


def _by_colour(mode: model.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def large(head: Head, look: Look, *queries: Query) -> stat.Panel:
    """One large value, or one for each series."""
    panel = _finish(stat.Panel(), head, look)
    panel.color_scheme(_by_colour(model.FieldColorModeId.THRESHOLDS))
    panel.color_mode(common_model.BigValueColorMode.BACKGROUND_SOLID)
    panel.graph_mode(common_model.BigValueGraphMode.NONE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    for at, query in enumerate(queries):
        panel.with_target(_target(at, query).instant())
    return panel


def lines(
    head: Head,
    look: Look,
    *queries: Query,
    stacked: bool = False,
    bars: bool = False,
    colours: dict[str, str] | None = None,
) -> timeseries.Panel:
    """Values over time."""
    panel = _finish(timeseries.Panel(), head, look)
    panel.color_scheme(_by_colour(model.FieldColorModeId.PALETTE_CLASSIC))
    panel.line_width(1 if stacked else 2).show_points(common_model.VisibilityMode.NEVER)
    panel.fill_opacity(70 if bars else 45 if stacked else 8)
    if look.axis:
        panel.axis_soft_min(look.axis[0]).axis_soft_max(look.axis[1])
    if bars:
        panel.draw_style(common_model.GraphDrawStyle.BARS).line_width(0)
    if stacked:
        normal = common_model.StackingMode.NORMAL
        panel.stacking(common.StackingConfig().mode(normal).group("A"))
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
    )
    order = common_model.SortOrder.DESCENDING
    panel.tooltip(common.VizTooltipOptions().mode(common_model.TooltipDisplayMode.MULTI).sort(order))
    for name, colour in (colours or {}).items():
        fixed = {"mode": "fixed", "fixedColor": colour}
        panel.override_by_name(name, [model.DynamicConfigValue("color", fixed)])
    for at, query in enumerate(queries):
        panel.with_target(_target(at, query).range())
    return panel


def timeline(head: Head, look: Look, *queries: Query) -> statetimeline.Panel:
    """States over time: a row for each series, a word and a colour for each value."""
    panel = _finish(statetimeline.Panel(), head, look)
    panel.color_scheme(_by_colour(model.FieldColorModeId.THRESHOLDS))
    panel.merge_values(True).show_value(common_model.VisibilityMode.AUTO)
    panel.row_height(0.85).line_width(0).fill_opacity(85).per_page(TIMELINE_ROWS_MAX)
    panel.legend(
        common.VizLegendOptions()
        .show_legend(False)
        .display_mode(common_model.LegendDisplayMode.LIST)
        .placement(common_model.LegendPlacement.BOTTOM)
    )
    for at, query in enumerate(queries):
        panel.with_target(_target(at, query).range())
    return panel


@dataclass(frozen=True)
class Column:
    """A label, or `Value`, as a column."""

    name: str
    title: str
    unit: str = ""
    words: dict[str, tuple[str, str]] = field(default_factory=dict)
    # A dashboard that a click leads to, with the row's value as this variable.
    leads_to: tuple[str, str] | None = None
    width: int | None = None


def listing(head: Head, query: Query, columns: Sequence[Column], no_value: str) -> table.Panel:
    """A row for each series as of now."""
    panel = _finish(table.Panel(), head, Look(unit="none", no_value=no_value))
    panel.cell_height(common_model.TableCellHeight.SM)
    wanted = prometheus_model.PromQueryFormat.TABLE
    panel.with_target(_target(0, query).instant().format(wanted))
    names = [column.name for column in columns]
    # What is not named here is not shown.
    panel.with_transformation(model.DataTransformerConfig("filterFieldsByName", options={"include": {"names": names}}))
    panel.with_transformation(
        model.DataTransformerConfig(
            "organize",
            options={
                "excludeByName": {},
                "indexByName": {name: index for index, name in enumerate(names)},
                "renameByName": {column.name: column.title for column in columns},
            },
        )
    )
    for column in columns:
        settings = []
        if column.unit:
            settings.append(model.DynamicConfigValue("unit", column.unit))
        if column.width:
            settings.append(model.DynamicConfigValue("custom.width", column.width))
        if column.words:
            mapping = _words(column.words).to_json()
            settings.append(model.DynamicConfigValue("mappings", [mapping]))
            cell = {"type": "color-text"}
            settings.append(model.DynamicConfigValue("custom.cellOptions", cell))
        if column.leads_to:
            uid, variable = column.leads_to
            url = f"/d/{uid}?var-{variable}=${{__value.text}}&${{ds:queryparam}}"
            link = {"title": DASHBOARDS[uid], "url": url}
            settings.append(model.DynamicConfigValue("links", [link]))
        if settings:
            panel.override_by_name(column.title, settings)
    return panel


def ranks(head: Head, look: Look, *queries: Query) -> bargauge.Panel:
    """A bar for each series as of now."""
    panel = _finish(bargauge.Panel(), head, look)
    panel.color_scheme(_by_colour(model.FieldColorModeId.THRESHOLDS))
    panel.display_mode(common_model.BarGaugeDisplayMode.BASIC)
    panel.orientation(common_model.VizOrientation.HORIZONTAL)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    for at, query in enumerate(queries):
        panel.with_target(_target(at, query).instant())
    return panel


AnyPanel = cog.Builder[model.Panel]


def wall(
    uid: str,
    description: str,
    panels: Sequence[AnyPanel],
    runbook: str,
    time_from: str,
    variables: Sequence[cog.Builder[model.VariableModel]] = (),
) -> dashboard.Dashboard:
    """A dashboard: the data source is a variable, the others of the family are links."""
    made = dashboard.Dashboard(DASHBOARDS[uid]).uid(uid).description(description)
    made.tags(["ev"]).editable().time(time_from, "now").refresh("30s").timezone("browser")
    made.tooltip(model.DashboardCursorSync.CROSSHAIR)
    made.with_variable(dashboard.DatasourceVariable("ds").label("Data source").type("prometheus"))
    made.with_variable(dashboard.ConstantVariable("runbook").label("Where the runbook is").value(runbook))
    for variable in variables:
        made.with_variable(variable)
    made.link(
        dashboard.DashboardLink("EV charging")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["ev"])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
    for panel in panels:
        made.with_panel(panel)
    return made


def labels_of(name: str, label: str, metric: str, title: str) -> dashboard.QueryVariable:
    """A variable that has the values of a label."""
    query = f"label_values({metric}, {label})"
    made = dashboard.QueryVariable(name).label(title).datasource(DATASOURCE)
    made.query({"query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
    made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
    return made.sort(model.VariableSort.NATURAL_ASC)


def connector_states(selector: str, by: str) -> str:
    """The number of each connector's state in the table above, as one expression. Every replica shows
    them all; one that has just started says `unknown` for a while, and the lowest number is what one
    knows that knows more."""
    terms = [
        f'{number} * max by ({by}, state) (ev_connector_state{{{selector}state="{state}"}})'
        for number, state in enumerate(CONNECTOR_STATES, 1)
    ]
    return f"min by ({by}) (\n" + "\nor ".join(terms) + "\n)"


def known_best(metric: str, unknown: str, by: str) -> str:
    """The counts of those replicas that know the state of most; `unknown` selects what they do not know."""
    return f"avg by ({by}) ({metric} and on (instance) ({metric}{{{unknown}}} == scalar(min({metric}{{{unknown}}}))))"


def counted(metric: str, window: str) -> str:
    """By how much a counter rose. A series that was not there before the window began at zero: `increase`
    alone would not see the first of each kind. `max_over_time`, since its replica may be gone by now."""
    return f"(max_over_time({metric}[{window}]) unless {metric} offset {window}) or increase({metric}[{window}])"


def per_minute(by: str, metric: str) -> str:
    """A counter's rate by the minute, with the first of each kind."""
    rose = counted(metric, "$__rate_interval")
    return f"sum by ({by}) ({rose}) * 60000 / $__rate_interval_ms > 0"


def by_replica(expr: str) -> str:
    """With the replica's name instead of its address."""
    return f"max by (replica) ({expr} * on (instance) group_left (replica) ev_build_info)"


def state_words() -> dict[str, tuple[str, str]]:
    """The table above as value mappings."""
    return {
        str(number): (state.replace("_", " "), colour)
        for number, (state, colour) in enumerate(CONNECTOR_STATES.items(), 1)
    }
