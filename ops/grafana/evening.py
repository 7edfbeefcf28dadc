"""A scripted half hour in the life of a small fleet, recorded by a real Prometheus.

One nats-server, two centrals and two agents: hub A with CP-001, CP-003 and CP-004, and site B with
CP-002 and CP-005 behind an uplink that is cut for a while. Drivers start, stop, are refused for every
common reason, a central is killed, hardware fails. Simulated cars charge `SPEED` times as fast, so that
two minutes here are half an hour there; `prom.stretch` gives the recording that time.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# So few questions of one driver that some processes at once are a flood, each with so many at most.
LIMITS = "\n[limits]\ndriver_reads = { per_s = 1, burst = 2 }\n"
FLOOD, FLOOD_EACH_MAX = 6, 100

# Simulated seconds a second; also by how much the recording is stretched. Prometheus scrapes every
# second, which becomes its usual 15 seconds.
SPEED = 15
LASTS_S = 120

HUB = ["CP-001", "CP-003", "CP-004"]
SITE_B = ["CP-002", "CP-005"]
DRIVERS = ["alice", "bob", "carol", "dave", "eve", "frank"]
RACERS = [f"racer-{number}" for number in range(1, 7)]


class Evening:
    """The system, and what happens to it. `dev` is the module ops/dev, with its `Stack`."""

    def __init__(self, dev: Any, folder: Path, server: Path, programs: Path) -> None:
        self.dev = dev
        self.folder = folder
        nats_port = dev.free_port()
        self.stack = dev.Stack(
            folder=folder,
            nats_server=server,
            programs=programs,
            nats_port=nats_port,
            monitor_port=dev.free_port(),
            http_ports=[dev.free_port(), dev.free_port()],
            charge_points=5,
            connectors=2,
            sim_speed=SPEED,
        )
        self.uplink = dev.Uplink(nats_port)
        self.site_b, self.site_b_socket = self._second_agent(programs)
        for config in folder.glob("central-*.toml"):
            config.write_text(config.read_text() + LIMITS)
        for driver in [*DRIVERS, *RACERS, "flood", "probe"]:
            self.stack.keys.of("driver", driver)
        self.stack.keys.of("operator", dev.OPERATOR)
        self.stranger = dev.Keys(programs / "central", folder / "stranger")
        self.stranger.make()
        self.begun = 0.0
        self.flooded = threading.Event()
        self.winners: list[tuple[str, str]] = []

    def _second_agent(self, programs: Path) -> tuple[Any, Path]:
        stack = self.stack
        socket = stack.socket.with_name("edge-b.sock")
        state = self.folder / "edge-b"
        state.mkdir()
        stack.charge_points = SITE_B
        made = stack._edge_config(f"nats://127.0.0.1:{self.uplink.port}", 2, False)
        text = made.read_text().replace(str(self.folder / "edge"), str(state))
        text = text.replace(self.dev.toml(stack.socket), self.dev.toml(socket))
        config = self.folder / "edge-b.toml"
        config.write_text(text)
        stack.charge_points = HUB
        stack._edge_config(stack.nats_url, 2, False)
        agent = stack._child("edge-b", [programs / "edge-cp", "run", "--sim-speed", SPEED, "--config", config])
        return agent, socket

    def start(self) -> None:
        """Returns when every charge point is in reach."""
        self.uplink.heal()
        self.site_b.start()
        self.stack.start()
        self.stack.charge_points = HUB + SITE_B
        self.stack.wait_for("all charge points are in reach", self.dev.READY_TIMEOUT_S, self.stack._all_in_reach)
        for cp in self.stack.charge_points:
            site = "SITE-B" if cp in SITE_B else "SITE-A"
            self.stack.driver(DRIVERS[0], ["op", "cp", "site", cp, site, "--time-zone", "Europe/Berlin"])

    def stop(self) -> None:
        self.site_b.terminate()
        self.site_b.wait(self.dev.STOP_TIMEOUT_S)
        self.stack.stop()
        self.uplink.cut()

    # -- what happens

    def play(self) -> None:
        """Each step at its second, or as soon as the one before is done."""
        steps: list[tuple[float, Callable[[], None]]] = [
            (0, self.set_a_price),
            (2, lambda: self.plug_and_start("frank", "CP-001", 1)),
            (3, lambda: self.plug_and_start("bob", "CP-003", 1, "--limit-energy", "1kWh")),
            (4, lambda: self.plug_and_start("carol", "CP-002", 1)),
            (6, lambda: self.operator("cp", "disable", "CP-004", "--connector", "2")),
            (7, lambda: self.accepted("alice", "CP-003", 2)),
            (9, self.be_refused),
            (13, self.let_a_stranger_knock),
            (15, lambda: self.ctl("plug", "CP-004", "--connector", "1")),
            (16, lambda: self.ctl("start", "CP-004", "--connector", "1", "--token", "04A2B3")),
            (18, lambda: self.ctl("pause", "CP-001", "--connector", "1")),
            (20, self.break_a_connector),
            (24, lambda: self.race("CP-005", 2)),
            (28, lambda: self.ctl("resume", "CP-001", "--connector", "1")),
            (32, self.uplink.cut),
            (35, lambda: self.ctl("plug", "CP-005", "--connector", "1")),
            (36, lambda: self.ctl("start", "CP-005", "--connector", "1", "--token", "77FE01")),
            (42, self.stack.centrals[0].kill9),
            (48, self.stack.centrals[0].start),
            (52, lambda: self.ctl("unplug", "CP-003", "--connector", "1")),
            (58, lambda: self.refused("dave", "CP-002", 1, "charge_point_offline")),
            (60, self.flood),
            (64, self.uplink.heal),
            (66, self.see_it_held_back),
            (74, lambda: self.stop_and_unplug("carol", "CP-002", 1)),
            (78, lambda: self.ctl("link", "down", "CP-002")),
            (80, lambda: self.ctl("meter", "CP-001", "--connector", "1", "--add", "-500000")),
            (86, lambda: self.refused("dave", "CP-002", 1, "charger_offline")),
            (88, lambda: self.race("CP-003", 1)),
            (89, lambda: self.ctl("fault", "CP-004", "--connector", "1", "--effect", "ended")),
            (91, lambda: self.ctl("link", "down", "CP-004")),
            (93, lambda: self.ctl("link", "up", "CP-002")),
            (95, lambda: self.stop_and_unplug("frank", "CP-001", 1)),
            (98, self.give_up_before_energy),
            (107, self.be_refused_again),
            (110, self.end_the_races),
            (114, self.answer_an_operator),
        ]
        self.begun = time.monotonic()
        for at_s, step in steps:
            self._until(at_s)
            step()
        self._until(LASTS_S)

    def _until(self, at_s: float) -> None:
        """Time passes: this is a recording, and nothing is checked by it."""
        while (left := self.begun + at_s - time.monotonic()) > 0:
            dead = next((c for c in self.stack.children if c.has_ended() and c is not self._killed()), None)
            if dead:
                raise self.dev.FailureWithLogs(f"{dead.name} {dead.ending()}\n{dead.tail()}")
            time.sleep(min(left, 0.2))

    def _killed(self) -> Any:
        return self.stack.centrals[0]

    def set_a_price(self) -> None:
        self.operator("tariff", "set", "day", "--scope", "default", *self.dev.DEMO_TARIFF)

    def plug_and_start(self, driver: str, cp: str, connector: int, *more: str) -> None:
        self.ctl("plug", cp, "--connector", str(connector))
        self.accepted(driver, cp, connector, *more)

    def be_refused(self) -> None:
        self.refused("dave", "CP-001", 1, "occupied")
        self.refused("alice", "CP-001", 2, "limit_reached")
        self.refused("dave", "CP-404", 1, "unknown_charge_point")
        self.refused("dave", "CP-004", 2, "out_of_service")
        self.operator("driver", "block", "eve", "--reason", "unpaid receipts")
        self.refused("eve", "CP-001", 2, "driver_blocked")

    def be_refused_again(self) -> None:
        self.refused("dave", "CP-002", 2, "faulted")
        self.refused("eve", "CP-001", 2, "driver_blocked")
        self.refused("dave", "CP-004", 2, "charger_offline", "out_of_service")

    def break_a_connector(self) -> None:
        self.ctl("fault", "CP-002", "--connector", "2", "--raw", "GroundFailure")
        self.stack.wait_for(
            "the fault is known to central",
            self.dev.COMMAND_TIMEOUT_S,
            lambda: self.start_code("dave", "CP-002", 2) == "faulted",
        )

    def let_a_stranger_knock(self) -> None:
        """With a credential that another realm has signed."""
        creds = self.stranger.of("driver", "mallory")
        argv = [str(self.stack.programs / "driver-cli"), "--nats-url", self.stack.nats_url]
        argv += ["--credentials", str(creds), "--ca", str(self.stack.keys.ca)]
        argv += ["--driver", "mallory", "--timeout", "2s"]
        argv += ["--state-dir", str(self.folder / "drivers" / "mallory"), "list"]
        if self.stack._ask(argv).code == 0:
            raise self.dev.Failure("a stranger was let in")

    def race(self, cp: str, connector: int) -> None:
        """All at once for one connector: one gets it. The others' records are void and decided again."""
        self.ctl("plug", cp, "--connector", str(connector))
        codes: dict[str, str] = {}

        def run(driver: str) -> None:
            codes[driver] = self.start_code(driver, cp, connector)

        threads = [threading.Thread(target=run, args=(driver,)) for driver in RACERS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [driver for driver, code in codes.items() if code == "accepted"]
        if len(won) != 1:
            raise self.dev.Failure(f"{len(won)} drivers have {cp}/{connector} instead of one: {codes}")
        self.winners.append((won[0], f"{cp}/{connector}"))

    def flood(self) -> None:
        """One driver asks far too much, until it is held back, while everything else goes on."""

        def run() -> None:
            for _ in range(FLOOD_EACH_MAX):
                if self.flooded.is_set():
                    return
                self.stack.driver("flood", ["--timeout", "1s", "list"])

        for _ in range(FLOOD):
            threading.Thread(target=run, daemon=True).start()

    def see_it_held_back(self) -> None:
        urls = self.stack.central_urls
        try:
            self.stack.wait_for(
                "a flood is held back",
                self.dev.COMMAND_TIMEOUT_S,
                lambda: any("ev_refused_total{" in self.dev.http_get(f"{url}/metrics")[1] for url in urls),
            )
        finally:
            self.flooded.set()

    def end_the_races(self) -> None:
        for driver, place in self.winners:
            cp, connector = place.split("/")
            self.stop_and_unplug(driver, cp, int(connector))

    def stop_and_unplug(self, driver: str, cp: str, connector: int) -> None:
        self._good(self.stack.driver(driver, ["stop"]))
        self.ctl("unplug", cp, "--connector", str(connector))

    def give_up_before_energy(self) -> None:
        self.accepted("dave", "CP-001", 2)
        self._good(self.stack.driver("dave", ["stop"]))

    def answer_an_operator(self) -> None:
        """What ops/docs/dashboards.md says of an operator's evening."""
        self.says("GroundFailure", "op", "cp", "show", "CP-002")
        self.says(r"preparing.*plug in", "op", "session", "ls", "--driver", "alice")
        self.says(r"(?s)spool\W+0\b.*missing\W+0\b", "op", "cp", "show", "CP-002")

    # -- what that is made of

    def accepted(self, driver: str, cp: str, connector: int, *more: str) -> None:
        code = self.start_code(driver, cp, connector, *more)
        if code != "accepted":
            raise self.dev.Failure(f"{driver} was not let charge at {cp}/{connector}: {code}")

    def refused(self, driver: str, cp: str, connector: int, *codes: str) -> None:
        code = self.start_code(driver, cp, connector)
        if code not in codes:
            raise self.dev.Failure(f"{driver} at {cp}/{connector}: {code} instead of {' or '.join(codes)}")

    def start_code(self, driver: str, cp: str, connector: int, *more: str) -> str:
        """`accepted`, or the code of the refusal."""
        words = ["start", cp, "--connector", str(connector), *more]
        answer = self.stack.driver(driver, words, as_json=True)
        if answer.code == 0:
            return "accepted"
        document = answer.document()
        for update in document if isinstance(document, list) else [document]:
            for part in (update.get("reason"), update.get("error"), update):
                if isinstance(part, dict) and isinstance(part.get("code"), str):
                    return str(part["code"])
        return str(answer)

    def operator(self, *words: str) -> None:
        self._good(self.stack.driver("dave", ["op", *words]))

    def says(self, pattern: str, *words: str) -> None:
        """An operator's question, without a driver's name of ours among its options."""
        stack = self.stack
        argv = [str(stack.programs / "driver-cli"), "--nats-url", stack.nats_url]
        argv += ["--credentials", str(stack.keys.creds), "--ca", str(stack.keys.ca)]
        answer = stack._ask([*argv, *words])
        self._good(answer)
        if not re.search(pattern, answer.stdout):
            raise self.dev.Failure(f"`{self.dev.shown(words)}` does not answer it:\n{answer}")

    def ctl(self, *words: str) -> None:
        cp = next(word for word in words if word.startswith("CP-"))
        socket = self.site_b_socket if cp in SITE_B else self.stack.socket
        program = str(self.stack.programs / "edge-cp")
        self._good(self.stack._ask([program, "ctl", "--socket", str(socket), *words]))

    def _good(self, answer: Any) -> None:
        if answer.code != 0:
            raise self.dev.Failure(f"`{self.dev.shown(answer.argv)}` failed: {answer}")


def clean(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
