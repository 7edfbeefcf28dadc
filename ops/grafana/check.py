"""Runs the query of every panel, as Grafana would, and names the panels that show nothing."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import prom

# What the variables stand for in the recording. Prometheus scrapes every 15 s: Grafana's
# $__rate_interval is four times that.
STEP_S = 15
VALUES = {"cp": "CP-002"}

METRIC = re.compile(r"\b((?:ev|gnatsd|jetstream|process)_[a-z0-9_]+|ALERTS)\b(?!\s*=)")
LEFT_OVER = re.compile(r"\$\{?[A-Za-z_]+")


@dataclass
class Series:
    """What a query found for one set of labels: times and values, one of each for an instant query."""

    labels: dict[str, str]
    name: str
    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass
class Shown:
    """A panel with what its queries found."""

    panel: dict[str, Any]
    series: list[Series]


@dataclass(frozen=True)
class Window:
    """The time that is shown."""

    start: float
    end: float

    def fill(self, expr: str) -> str:
        range_s = f"{self.end - self.start:.0f}s"
        wanted = {
            **VALUES,
            "__rate_interval": f"{4 * STEP_S}s",
            "__rate_interval_ms": str(4 * STEP_S * 1000),
            "__range": range_s,
            "__interval": f"{STEP_S}s",
        }
        for name, value in wanted.items():
            expr = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value, expr)
        left = LEFT_OVER.search(expr)
        if left:
            raise prom.Broken(f"the variable {left[0]} has no value")
        return expr


def boards(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]


def metrics_of(expr: str) -> set[str]:
    return set(METRIC.findall(expr))


def fill_panels(
    server: prom.Server, board: dict[str, Any], window: Window, known: set[str]
) -> tuple[list[Shown], list[str]]:
    """All panels with their data, and what is wrong with them."""
    shown, wrong = [], []
    for panel in board["panels"]:
        where = f"{board['uid']}, panel {panel['id']} ({panel['title']})"
        found: list[Series] = []
        for target in panel["targets"]:
            for name in sorted(metrics_of(target["expr"]) - known):
                wrong.append(f"{where}: no program has shown a metric {name}")
            try:
                series = run(server, target, window)
            except prom.Broken as error:
                wrong.append(f"{where}: {error} in {target['expr']!r}")
                continue
            if not series:
                wrong.append(f"{where}: query {target['refId']} found nothing: {target['expr']}")
            found += series
        shown.append(Shown(panel, found))
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            wrong += check_variable(server, board, variable, window)
    return shown, wrong


def check_variable(server: prom.Server, board: dict[str, Any], variable: dict[str, Any], window: Window) -> list[str]:
    where = f"{board['uid']}, variable {variable['name']}"
    query = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    if not query:
        return [f"{where}: its query is no label_values(metric, label)"]
    arguments = {"match[]": query[1], "start": window.start, "end": window.end}
    there = server.ask(f"label/{query[2]}/values", **arguments)
    wanted = VALUES[variable["name"]]
    return [] if wanted in there else [f"{where}: {wanted} is not among {there}"]


def run(server: prom.Server, target: dict[str, Any], window: Window) -> list[Series]:
    expr = window.fill(target["expr"])
    if target.get("instant"):
        data = server.ask("query", query=expr, time=window.end)
    else:
        bounds = {"start": window.start, "end": window.end, "step": STEP_S}
        data = server.ask("query_range", query=expr, **bounds)
    found = []
    for each in data["result"]:
        labels = {key: value for key, value in each["metric"].items() if key != "__name__"}
        points = each.get("values") or [each["value"]]
        # Grafana shows no NaN.
        points = [(float(at), float(value)) for at, value in points if not math.isnan(float(value))]
        if points:
            name = call(target.get("legendFormat", ""), labels)
            found.append(Series(labels, name, [at for at, _ in points], [v for _, v in points]))
    return found


def call(legend: str, labels: dict[str, str]) -> str:
    """As Grafana names a series."""
    if not legend:
        return ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)


def check_links(folder: Path, runbook: Path, rules: list[Path]) -> list[str]:
    """From alerts to panels, from alerts and panels to sections of the runbook, from dashboard to dashboard."""
    all_boards = {board["uid"]: board for board in boards(folder)}
    sections = sections_of(runbook)
    wrong = []
    for uid, board in all_boards.items():
        ids = [panel["id"] for panel in board["panels"]]
        wrong += [f"{uid}: two panels have the id {number}" for number in sorted(set(ids)) if ids.count(number) > 1]
        wrong += [f"{uid}: {text}" for text in check_grid(board)]
        for panel in board["panels"]:
            where = f"{uid}, panel {panel['id']} ({panel['title']})"
            linked = {link["url"].partition("#")[2] for link in panel.get("links", [])} - {""}
            wrong += [f"{where}: ops/docs/runbook.md has no section #{name}" for name in sorted(linked - sections)]
        for linked in sorted(set(re.findall(r"/d/([\w-]+)", json.dumps(board))) - all_boards.keys()):
            wrong.append(f"{uid}: it links to {linked}, and there is no such dashboard")
    for path in rules:
        wrong += [f"{path.name}: {text}" for text in check_rules(path.read_text("utf-8"), all_boards, sections)]
    return wrong


def check_rules(rules: str, all_boards: dict[str, dict[str, Any]], sections: set[str]) -> list[str]:
    wrong = []
    for uid, number in re.findall(r"/d/([\w-]+)(?:[^\s\"']*?viewPanel=(?:panel-)?(\d+))?", rules):
        panels = [panel["id"] for panel in all_boards.get(uid, {}).get("panels", [])]
        if not panels or (number and int(number) not in panels):
            wrong.append(f"it links to panel {number} of {uid}, and there is none")
    for name in sorted(set(re.findall(r"runbook[^\s\"']*#([\w-]+)", rules)) - sections):
        wrong.append(f"ops/docs/runbook.md has no section #{name}")
    return wrong


def sections_of(page: Path) -> set[str]:
    """The names by which links reach its sections."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE) if page.is_file() else []
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def check_grid(board: dict[str, Any]) -> list[str]:
    taken: dict[tuple[int, int], int] = {}
    wrong = []
    for panel in board["panels"]:
        grid = panel["gridPos"]
        if grid["x"] + grid["w"] > 24:
            wrong.append(f"panel {panel['id']} is beyond the 24 columns")
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                other = taken.setdefault((x, y), panel["id"])
                if other != panel["id"]:
                    wrong.append(f"panel {panel['id']} lies over panel {other}")
                    return wrong
    return wrong
