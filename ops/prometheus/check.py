#!/usr/bin/env python3
"""Holds the rules together: `promtool` accepts them, each alert has a case that fires and one that does
not, a severity, a `for`, a section of the runbook and a dashboard, its texts can be rendered, and no
rule asks for a metric that central does not export.

    ops/prometheus/check.py

`ops/dev test` runs it. It needs promtool and PyYAML: apt-get install prometheus python3-yaml
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Set

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"
SEVERITIES = {"critical", "warning"}
DASHBOARDS = {"ev-fleet", "ev-charge-point", "ev-ledger-nats", "ev-reliability"}
ANNOTATIONS = {"summary", "description", "runbook_url", "dashboard_url"}
RUNBOOK = "{{ $externalLabels.docs }}/runbook.md#"
DASHBOARD = "{{ $externalLabels.grafana }}/d/"
# Sections of the runbook that belong to no alert.
GENERAL = {"runbook", "where-to-look-first"}
# What a rule may ask for beside what central exports: Prometheus' own.
OF_PROMETHEUS = {"up", "ALERTS"}
# So many bytes of what promtool says are shown.
SHOWN_MAX = 4_000


class Fault(Exception):
    """Something does not fit; the text says what, and what would."""


def anchor(heading: str) -> str:
    """A heading's anchor, as the usual renderers of Markdown make it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def promtool(*args: str) -> str:
    done = subprocess.run(
        ["promtool", *args], capture_output=True, text=True, timeout=300, check=False
    )
    said = done.stdout + done.stderr
    if done.returncode != 0:
        raise Fault(f"promtool {' '.join(args[:2])}:\n{said[-SHOWN_MAX:]}")
    return said


def read(path: Path) -> Any:
    import yaml  # pylint: disable=import-outside-toplevel

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rules() -> List[Dict[str, Any]]:
    found = []
    for path in sorted((HERE / "rules").glob("*.yml")):
        for group in read(path)["groups"]:
            found += group["rules"]
    return found


def check_alerts(alerts: List[Dict[str, Any]]) -> None:
    runbook = (DOCS / "runbook.md").read_text(encoding="utf-8")
    anchors = [anchor(heading) for heading in re.findall(r"^#+ (.*)$", runbook, re.M)]
    used: Set[str] = set()
    for alert in alerts:
        name = alert["alert"]
        if "for" not in alert:
            raise Fault(f"{name}: give it a `for`")
        if alert.get("labels", {}).get("severity") not in SEVERITIES:
            raise Fault(f"{name}: give it a severity of {sorted(SEVERITIES)}")
        texts = alert.get("annotations", {})
        if set(texts) != ANNOTATIONS:
            raise Fault(f"{name}: give it the annotations {sorted(ANNOTATIONS)}")
        link = texts["runbook_url"]
        section = anchor(re.sub(r"(?<!^)([A-Z])", r"-\1", name))
        if link != RUNBOOK + section:
            raise Fault(f"{name}: its runbook_url is {RUNBOOK}{section}")
        if section not in anchors:
            raise Fault(f"{name}: ops/docs/runbook.md has no section #{section}")
        used.add(section)
        if texts["dashboard_url"].removeprefix(DASHBOARD).partition("?")[0] not in DASHBOARDS:
            raise Fault(f"{name}: its dashboard_url is {DASHBOARD} and one of {sorted(DASHBOARDS)}")
    of_two = {a for a in anchors if anchors.count(a) > 1}
    if of_two:
        raise Fault(f"ops/docs/runbook.md has sections of the same name: {sorted(of_two)}")
    sections = {anchor(heading) for heading in re.findall(r"^## (.*)$", runbook, re.M)}
    orphans = sections - used - GENERAL
    if orphans:
        raise Fault(f"ops/docs/runbook.md has sections of no alert: {sorted(orphans)}")


def check_cases(alerts: List[Dict[str, Any]]) -> None:
    fires: Set[str] = set()
    silent: Set[str] = set()
    cases: List[Dict[str, Any]] = []
    for path in sorted((HERE / "tests").glob("*.yml")):
        for case in read(path)["tests"]:
            for test in case.get("alert_rule_test", []):
                if not test["exp_alerts"]:
                    silent.add(test["alertname"])
            for test in case.get("promql_expr_test", []):
                named = re.fullmatch(r'ALERTS\{alertname="(\w+)",alertstate="firing"\}', test["expr"])
                if named and test["exp_samples"]:
                    fires.add(named[1])
                    cases.append(
                        {
                            "interval": case["interval"],
                            "input_series": case["input_series"],
                            "alert_rule_test": [
                                {
                                    "alertname": named[1],
                                    "eval_time": test["eval_time"],
                                    # Not what it is: promtool then says what it is.
                                    "exp_alerts": [{"exp_labels": {"not": "so"}}],
                                }
                            ],
                        }
                    )
    for alert in alerts:
        for kind, there in (("fires", fires), ("does not fire", silent)):
            if alert["alert"] not in there:
                raise Fault(f"{alert['alert']}: ops/prometheus/tests has no case where it {kind}")
    check_rendering(cases)


def check_rendering(cases: List[Dict[str, Any]]) -> None:
    """The texts of each alert as it fires. promtool shows them where something else is expected."""
    import yaml  # pylint: disable=import-outside-toplevel

    whole = {
        "rule_files": [str(path) for path in sorted((HERE / "rules").glob("*.yml"))],
        "evaluation_interval": "1m",
        "tests": [
            {**case, "external_labels": {"docs": "D", "grafana": "G"}} for case in cases
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as file:
        yaml.safe_dump(whole, file)
        file.flush()
        done = subprocess.run(
            ["promtool", "test", "rules", file.name],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    said = done.stdout + done.stderr
    if said.count("runbook_url=") < len(cases):
        raise Fault(f"promtool does not show the texts of alerts:\n{said[-SHOWN_MAX:]}")
    for wrong in ("error expanding", "<no value>", "{{", "%!"):
        if wrong in said:
            at = said.index(wrong)
            raise Fault(f"the text of an alert cannot be rendered: …{said[max(0, at - 300):at + 200]}")


def check_names(all_rules: List[Dict[str, Any]]) -> None:
    """A test holds the tables of ops/docs/metrics.md to what a running central exports."""
    documented = (DOCS / "metrics.md").read_text(encoding="utf-8")
    known = set(re.findall(r"^\| `(\w+)` \|", documented, re.M))
    known |= {f"{name}{suffix}" for name in known for suffix in ("_bucket", "_count", "_sum")}
    exporter = HERE.parent / "e2e" / "tests" / "system" / "exporter.txt"
    known |= set(re.findall(r"^(\w+)", exporter.read_text(encoding="utf-8"), re.M))
    known |= {rule["record"] for rule in all_rules if "record" in rule} | OF_PROMETHEUS
    runbook = (DOCS / "runbook.md").read_text(encoding="utf-8")
    shown = [{"alert": "the runbook", "expr": e} for e in re.findall(r"promql: (.*)", runbook)]
    for rule in all_rules + shown:
        expression = re.sub(r'"[^"]*"', '""', rule["expr"])
        expression = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without)\s*\([^)]*\)", "", expression)
        for name in re.findall(r"[a-zA-Z_:][\w:]*(?!\w*\s*\()", expression):
            is_metric = name.startswith(("ev_", "ev:", "gnatsd_", "jetstream_", "process_"))
            if (is_metric or name == "up") and name not in known:
                whose = rule.get("alert") or rule.get("record")
                raise Fault(f"{whose} asks for {name}, which nothing exports (ops/docs/metrics.md)")


def check() -> str:
    for program in ("promtool",):
        if not shutil.which(program):
            raise Fault(f"there is no {program}: apt-get install prometheus")
    promtool("check", "config", str(HERE / "prometheus.yml"))
    files = [str(path) for path in sorted((HERE / "rules").glob("*.yml"))]
    tests = [str(path) for path in sorted((HERE / "tests").glob("*.yml"))]
    promtool("check", "rules", "--lint=all", "--lint-fatal", *files)
    promtool("test", "rules", *tests)
    all_rules = rules()
    alerts = [rule for rule in all_rules if "alert" in rule]
    check_alerts(alerts)
    check_cases(alerts)
    check_names(all_rules)
    return f"{len(alerts)} alerts and {len(all_rules) - len(alerts)} recording rules are in order"


def main() -> int:
    try:
        print(check())
    except Fault as fault:
        print(f"check.py: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
