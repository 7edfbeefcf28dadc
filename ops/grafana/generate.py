#!/usr/bin/env python3
"""Writes the dashboards' JSON from ops/grafana/walls/.

generate.py             write ops/grafana/dashboards/*.json
generate.py --check     fail if what is there is something else
generate.py --runbook https://wiki.example.org/ev/runbook
                        with links to where your people read the runbook
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from walls import charge_point, fleet, ledger_nats, reliability

FOLDER = Path(__file__).resolve().parent / "dashboards"
BUILDERS = [fleet.build, charge_point.build, ledger_nats.build, reliability.build]
# As `docs` in ops/prometheus/prometheus.yml, from which alerts make theirs.
RUNBOOK = "https://docs.example/runbook.md"


def dashboards(runbook: str) -> dict[str, str]:
    """File name to content."""
    made = {}
    for build in BUILDERS:
        board = build(runbook).build()
        plain = json.loads(JSONEncoder(sort_keys=True).encode(board))
        tidy(plain)
        text = json.dumps(plain, indent=2)
        made[f"{board.uid}.json"] = text + "\n"
    return made


def tidy(board: dict[str, Any]) -> None:
    """Takes out what the SDK writes unasked and Grafana's schema does not have or we do not want."""
    for panel in [board, *board["panels"]]:
        for link in panel.get("links", []):
            # Into a menu; on a wall links are to be seen.
            link.pop("placement", None)
    for panel in board["panels"]:
        panel.pop("repeatDirection", None)
        if panel["type"] == "table":
            panel["options"].pop("footer", None)
    for variable in board["templating"]["list"]:
        for key in ("auto", "auto_min", "auto_count"):
            variable.pop(key, None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    parser.add_argument("--runbook", default=RUNBOOK, metavar="URL", help="of the runbook's page")
    parser.add_argument("--into", type=Path, default=FOLDER, metavar="DIR", help="instead of dashboards/ here")
    args = parser.parse_args()
    folder: Path = args.into
    wanted = dashboards(args.runbook)
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("ev-*.json")}
    if args.check:
        odd = sorted(name for name in wanted | there if wanted.get(name) != there.get(name))
        for name in odd:
            print(f"ops/grafana/dashboards/{name} is not what generate.py makes; run it", file=sys.stderr)
        return 1 if odd else 0
    folder.mkdir(parents=True, exist_ok=True)
    for name in there.keys() - wanted.keys():
        (folder / name).unlink()
    for name, text in wanted.items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
