"""A Prometheus of our own: scrape and dump, give a recording its time, serve it again, ask it."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
# A dump of half an hour of a small fleet takes seconds.
TOOL_TIMEOUT_S = 120.0
# What a scrape finds in this recording is 15 s old at most; without this, a series that has ended
# would seem to go on for Prometheus' usual five minutes, since a dump has no word for an end.
LOOKBACK_S = 20

DURATION = re.compile(r"\b(\d+)(ms|s|m|h|d|w)\b")
MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


class Broken(Exception):
    """What went wrong, for a person."""


def shorten(rules: str, factor: int) -> str:
    """Alert and recording rules for a time that runs `factor` times as fast: every duration in `for`,
    `keep_firing_for`, `interval` and range selectors is divided."""

    def divide(text: str) -> str:
        return DURATION.sub(lambda found: f"{max(1, int(found[1]) * MS[found[2]] // factor)}ms", text)

    # A range holds a duration first; what else stands in brackets does not begin so.
    ranges = re.sub(r"\[(\d+[a-z]+[^\]\n]*)\]", lambda found: f"[{divide(found[1])}]", rules)
    keys = r"^(\s*-?\s*(?:for|keep_firing_for|interval):)(.*)$"
    return re.sub(keys, lambda found: found[1] + divide(found[2]), ranges, flags=re.MULTILINE)


class Server:
    """A running Prometheus, with the configuration that is in its folder."""

    def __init__(self, folder: Path, port: int, in_child: Callable[[], None], lookback_s: int = 300) -> None:
        self.data = folder / "data"
        self.log = folder / "prometheus.log"
        self.url = f"http://127.0.0.1:{port}"
        self.argv = [
            prometheus(),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data}",
            "--storage.tsdb.retention.time=10y",
            f"--web.listen-address=127.0.0.1:{port}",
            f"--query.lookback-delta={lookback_s}s",
            "--log.level=warn",
        ]
        self.in_child = in_child
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self.in_child,  # noqa: PLW1509 - it ends with us, however we end
            )
        deadline = time.monotonic() + READY_TIMEOUT_S
        while True:
            if self.process.poll() is not None:
                raise Broken(f"prometheus exited with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(OSError), _open(f"{self.url}/-/ready") as answer:
                if answer.status == 200:
                    return
            if time.monotonic() > deadline:
                raise Broken(f"prometheus was not ready within {READY_TIMEOUT_S:g} s:\n{self.tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def ask(self, path: str, **arguments: object) -> Any:
        """The `data` of an answer of its API; an expression that it cannot read raises."""
        words = urllib.parse.urlencode({key: str(value) for key, value in arguments.items()})
        request = f"{self.url}/api/v1/{path}?{words}"
        try:
            with _open(request) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with contextlib.suppress(ValueError):
                text = json.loads(text)["error"]
            raise Broken(text) from None


def _open(request: str) -> Any:
    # A proxy from the environment has no business with loopback.
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)


def prometheus() -> str:
    return _program("prometheus")


def promtool() -> str:
    return _program("promtool")


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        raise Broken(f"{name} is missing; as root, run: apt-get install prometheus")
    return found


@dataclass(frozen=True)
class Clock:
    """From the time of the recording to the time that it is shown in."""

    begun: float
    shown_from: float
    factor: int

    def shown(self, at: float) -> float:
        return self.shown_from + (at - self.begun) * self.factor


SAMPLE = re.compile(r"^(\{.*\}) (\S+) (\d+)$")
NAME = re.compile(r'__name__="([^"]*)"(?:, ?)?')
# Points in time that lie in the recording move with it.
MOVES = re.compile(r"_(?:start|start_time)_(?:timestamp_)?seconds$")
# How long ago this was stays as it was.
KEEPS_ITS_AGE = re.compile(r"_last_heartbeat_timestamp_seconds$")


def stretch(data: Path, into: Path, clock: Clock) -> set[str]:
    """Turns what a Prometheus (stopped) has recorded into blocks in which time runs slower, in `into`.
    Values stay as measured, but for times inside the recording. Returns the names of the metrics."""
    dump = into / "dump.txt"
    into.mkdir(parents=True, exist_ok=True)
    with dump.open("wb") as file:
        _run([promtool(), "tsdb", "dump", str(data)], stdout=file)
    families: dict[str, list[str]] = {}
    with dump.open(encoding="utf-8") as lines:
        for line in lines:
            sample = SAMPLE.match(line.rstrip("\n"))
            if not sample:
                continue
            labels, value, at_ms = sample[1], float(sample[2]), int(sample[3])
            name = NAME.search(labels)
            at = at_ms / 1000
            # NaN stands for the end of a series, too, and a dump cannot tell which.
            if not name or math.isnan(value) or at < clock.begun or name[1] == "ALERTS_FOR_STATE":
                continue
            if MOVES.search(name[1]) and value > 0:
                value = clock.shown(value)
            elif KEEPS_ITS_AGE.search(name[1]) and value > 0:
                value = clock.shown(at) - (at - value)
            rest = NAME.sub("", labels, count=1).replace(", ", ",").replace(",}", "}")
            text = f"{name[1]}{rest} {value!r} {clock.shown(at):.3f}"
            families.setdefault(name[1], []).append(text.replace(" inf ", " +Inf "))
    dump.unlink()
    exposition = into / "recording.om"
    with exposition.open("w", encoding="utf-8") as file:
        for samples in families.values():
            file.write("\n".join(samples) + "\n")
        file.write("# EOF\n")
    tool = [promtool(), "tsdb", "create-blocks-from", "openmetrics"]
    _run([*tool, str(exposition), str(into / "data")], stdout=subprocess.DEVNULL)
    return set(families)


def _run(argv: list[str], stdout: Any) -> None:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=TOOL_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise Broken(f"`{' '.join(argv)}` failed: {done.stderr.decode(errors='replace').strip()}")


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    try:
        server.start()
        yield server
    finally:
        server.stop()
