#!/usr/bin/env python3
"""The packages on bare Debian machines with real systemd, by the commands of the guides.

`ops/dev hosts` builds what is needed and calls this. One hub and one cabinet for all tests, which run
in the order in which they stand here.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import unittest
from decimal import Decimal
from pathlib import Path
from typing import Any, Dict, List, Optional

# Run by root, perhaps in somebody else's folder.
sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parent))
import packages  # noqa: E402
from guide import Guide  # noqa: E402
from machine import OURS, Broken, Machine, Network, alone, base_root, until  # noqa: E402

AGENT = "edge-cp@cabinet"
SOCKET = "/run/edge-cp/cabinet/control.sock"
# In the place of the units' 30 s where a test waits for it to pass.
WATCHDOG_S = 8
EXIT_CONFIG = "78"
# What systemd says of a service whose credentials it cannot read.
EXIT_CREDENTIALS = "243"


class World:
    """A hub and a cabinet, by the guides."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=options.state, prefix=f"{OURS}world-"))
        self.options = options
        self.hub_guide = Guide("install-hub.md")
        self.edge_guide = Guide("install-edge.md")
        self.hub: Machine
        self.cabinet: Machine
        self.ending: List[Any] = [lambda: shutil.rmtree(self.folder, ignore_errors=True)]

    def make(self) -> None:
        root = base_root(self.options.state)
        for name in ("hub", "cabinet", "newer"):
            (self.folder / name).mkdir()
        self._packages("hub", ["central", "driver-cli"], None)
        self._packages("cabinet", ["edge-cp"], None)
        self._packages("newer", ["edge-cp", "central"], "99.0.0-1")
        shutil.copytree(self.options.wheels, self.folder / "hub" / "wheels")
        network = Network()
        self.ending.append(network.end)
        self.network = network
        self.hub = Machine("hub", root, network, self.folder / "hub")
        self.ending.append(self.hub.end)
        self.cabinet = Machine("cabinet", root, network, self.folder / "cabinet")
        self.ending.append(self.cabinet.end)

    def _packages(self, name: str, programs: List[str], version: Optional[str]) -> None:
        packages.build(
            self.options.cargo_deb,
            self.options.programs,
            self.folder / "work",
            self.folder / name,
            version=version,
            fast=True,
            only=programs,
        )

    def end(self) -> None:
        for end in reversed(self.ending):
            end()

    # -- use

    def driver(self, words: str) -> Any:
        """What `driver-cli --json` of alice says."""
        keys = "--credentials /etc/ev/keys/creds --ca /etc/ev/keys/tls/ca.crt"
        return json.loads(
            self.hub.run(f"driver-cli {keys} --driver alice --json {words}"), parse_float=Decimal
        )

    def ctl(self, words: str) -> Any:
        """What the agent says of its charge point."""
        return json.loads(self.cabinet.run(f"edge-cp ctl --socket {SOCKET} --json {words}"))

    def connector(self) -> Dict[str, Any]:
        return self.ctl("status")["charge_points"][0]["connectors"][0]

    def register_mwh(self) -> int:
        return int(self.connector()["register_mwh"])

    def is_charging(self, session: str) -> bool:
        now = self.connector()
        return now["session_id"] == session and now["state"] == "charging"

    def wait_for_energy(self) -> None:
        before = self.register_mwh()
        until("the meter runs", lambda: self.register_mwh() > before)

    def status(self) -> str:
        return self.cabinet.show(AGENT, "StatusText")

    def main_pid(self, machine: Machine, unit: str) -> int:
        """Never 0, which is what there is between an end and the next start."""
        return until(f"{unit} has a process", lambda: int(machine.show(unit, "MainPID")))

    def restarts(self, machine: Machine, unit: str) -> int:
        return int(machine.show(unit, "NRestarts"))

    def is_up_again(self, machine: Machine, unit: str, former: int) -> bool:
        state, pid = machine.shows(unit, "ActiveState", "MainPID")
        return state == "active" and int(pid) not in (0, former)


WORLD: World


class Hosts(unittest.TestCase):
    """Each test begins with a hub and a cabinet that are in order, and no session, or with what its
    predecessor says that it leaves."""

    maxDiff = None
    session = ""
    register_before_mwh = 0

    @property
    def world(self) -> World:
        return WORLD

    # -- installation

    def test_a_hub_is_installed_by_its_guide(self) -> None:
        hub, guide = self.world.hub, self.world.hub_guide
        for step in ("name", "packages"):
            hub.run(guide.take(step))
        # Nothing of ours runs before there are keys.
        self.assertEqual(hub.show("central", "ActiveState"), "inactive")
        for step in ("nats-server", "keys", "hand-over", "check"):
            hub.run(guide.take(step))
        said = hub.run(guide.take("start"))
        self.assertIn('Status: "answers', said)
        said = hub.run(guide.take("enrol"))
        self.assertIn("CP-001", said)
        hub.run(guide.take("check-cluster"))
        self.assertEqual(guide.left_out(), [])
        self.assertEqual(hub.shows("central", "Type", "NRestarts"), ["notify", "0"])
        self.assertEqual(hub.show("ev-nats", "NRestarts"), "0")

    def test_a_cabinet_is_installed_by_its_guide(self) -> None:
        cabinet, guide = self.world.cabinet, self.world.edge_guide
        for name in ("creds/charge-point/CP-001.creds", "tls/ca.crt"):
            text = self.world.hub.run(f"cat /etc/ev/keys/{name}")
            (self.world.folder / "cabinet" / Path(name).name).write_text(text)
        for step in ("name", "install", "configure", "check"):
            cabinet.run(guide.take(step))
        self.assertIn("Active: active (running)", cabinet.run(guide.take("start")))
        until("the uplink is there", lambda: self.world.status().startswith("uplink 1 of 1"))
        until("nothing waits", lambda: self.world.status().endswith("0 sessions, 0 records wait"))
        shown = cabinet.run(f"systemctl status --no-pager {AGENT}")
        self.assertIn('Status: "uplink 1 of 1, 0 sessions, 0 records wait"', shown)
        self.assertIn("CP-001", cabinet.run(guide.take("look")))
        self.assertEqual(cabinet.show(AGENT, "NRestarts"), "0")
        # Enabled for the next boot, by way of the target.
        self.assertEqual(cabinet.run(f"systemctl is-enabled {AGENT}").strip(), "enabled")
        self.assertEqual(cabinet.run("systemctl is-enabled edge-cp.target").strip(), "enabled")

    def test_what_is_secret_only_the_service_reads(self) -> None:
        for machine, unit, secret in (
            (self.world.cabinet, AGENT, "keys_CP-001.creds"),
            (self.world.hub, "central", "keys_central.creds"),
            (self.world.hub, "ev-nats", "tls_server.key"),
        ):
            with self.subTest(unit=unit):
                pid = self.world.main_pid(machine, unit)
                uid = int(machine.run(f"stat -c %u /proc/{pid}").strip())
                # Within what systemd takes for dynamic users.
                self.assertTrue(61184 <= uid <= 65519, uid)
                path = f"/run/credentials/{unit}.service/{secret}"
                as_user = "setpriv --clear-groups --no-new-privs --reuid {} --regid {} cat {}"
                stranger = machine.ask(as_user.format(1234, 1234, path))
                self.assertIn("Permission denied", stranger.stderr)
                # To the service alone they are there and readable.
                inside = f"nsenter --target {pid} --mount -- " + as_user.format(uid, uid, path)
                self.assertTrue(machine.run(inside))
        for machine, source in (
            (self.world.cabinet, "/etc/edge-cp/keys/cabinet/CP-001.creds"),
            (self.world.hub, "/etc/ev/central/central.creds"),
            (self.world.hub, "/etc/ev/nats/tls/server.key"),
        ):
            self.assertEqual(machine.run(f"stat -c '%a %U' {source}").strip(), "600 root")

    def test_man_pages_and_completions_are_there_and_sound(self) -> None:
        for machine, programs in (
            (self.world.hub, ["central", "driver-cli"]),
            (self.world.cabinet, ["edge-cp"]),
        ):
            for program in programs:
                with self.subTest(program=program):
                    pages = machine.run(f"dpkg -L {program} | grep /man/man").split()
                    pages = [page for page in pages if page.endswith(".gz")]
                    self.assertGreater(len(pages), 3)
                    for page in pages:
                        # groff says on standard error what it does not understand.
                        done = machine.ask(f"MANWIDTH=80 man --warnings --local-file {page}")
                        self.assertEqual((done.returncode, done.stderr), (0, ""), page)
                        self.assertIn("SYNOPSIS", done.stdout)
                    first = machine.run(f"man {program}")
                    for section in ("EXAMPLES", "FILES", "SEE ALSO"):
                        self.assertIn(section, first)
                    machine.run(f"bash -n /usr/share/bash-completion/completions/{program}")
                    machine.run(f"zsh -n /usr/share/zsh/vendor-completions/_{program}")
                    machine.run(f"fish -n /usr/share/fish/vendor_completions.d/{program}.fish")

    # -- a session, through everything; each test goes on with it

    def test_a_session_is_started(self) -> None:
        world = self.world
        Hosts.register_before_mwh = world.register_mwh()
        world.ctl("plug CP-001")
        started = world.driver("start CP-001 --wait charging")
        Hosts.session = started["session_id"]
        self.assertTrue(Hosts.session)
        until("it charges", lambda: world.is_charging(Hosts.session))
        until("the status line counts it", lambda: "1 sessions" in world.status())
        world.wait_for_energy()

    def test_the_journal_has_fields_by_which_a_session_is_found(self) -> None:
        lines = self.world.hub.run(f"journalctl -u central -o json SESSION_ID={Hosts.session}")
        entries = [json.loads(line) for line in lines.splitlines()]
        self.assertTrue(entries)
        for entry in entries:
            self.assertEqual(entry["SESSION_ID"], Hosts.session)
            self.assertEqual(entry["_SYSTEMD_UNIT"], "central.service")
            self.assertNotIn(Hosts.session, entry["MESSAGE"], "it would be said twice")
        self.assertTrue(any(entry.get("CP") == "CP-001" for entry in entries))

    def test_a_reload_ends_nothing(self) -> None:
        for machine, unit in (
            (self.world.cabinet, AGENT),
            (self.world.hub, "central"),
            (self.world.hub, "ev-nats"),
        ):
            with self.subTest(unit=unit):
                before = machine.shows(unit, "MainPID", "NRestarts")
                machine.run(f"systemctl reload {unit}")
                # Who answers after a signal has survived it.
                self.world.ctl("status")
                self.world.driver("list")
                self.assertEqual(machine.show(unit, "ActiveState"), "active")
                self.assertEqual(machine.shows(unit, "MainPID", "NRestarts"), before)
        self.world.wait_for_energy()

    def test_who_is_killed_is_started_again_and_the_session_goes_on(self) -> None:
        for machine, unit in ((self.world.cabinet, AGENT), (self.world.hub, "central")):
            with self.subTest(unit=unit):
                former = self.world.main_pid(machine, unit)
                restarts = self.world.restarts(machine, unit)
                machine.run(f"kill -9 {former}")
                until(f"{unit} is back", lambda: self.world.is_up_again(machine, unit, former))
                self.assertEqual(self.world.restarts(machine, unit), restarts + 1)
        until("it charges", lambda: self.world.is_charging(Hosts.session))
        self.world.wait_for_energy()

    def test_who_stands_still_is_killed_by_the_watchdog_and_the_session_goes_on(self) -> None:
        for machine, unit in ((self.world.cabinet, AGENT), (self.world.hub, "central")):
            with self.subTest(unit=unit):
                self.assertEqual(machine.show(unit, "WatchdogUSec"), "30s")
                self._shorter_watchdog(machine, unit)
        until("it charges", lambda: self.world.is_charging(Hosts.session))
        for machine, unit in ((self.world.cabinet, AGENT), (self.world.hub, "central")):
            with self.subTest(unit=unit):
                former = self.world.main_pid(machine, unit)
                machine.run(f"kill -STOP {former}")
                until(f"{unit} is back", lambda: self.world.is_up_again(machine, unit, former))
                said = machine.journal(f"_PID=1 -u {unit}")
                self.assertIn("Watchdog timeout", said)
                self.assertIn("Failed with result 'watchdog'", said)
        until("it charges", lambda: self.world.is_charging(Hosts.session))
        self.world.wait_for_energy()

    def _shorter_watchdog(self, machine: Machine, unit: str) -> None:
        folder = f"/etc/systemd/system/{unit}.service.d"
        machine.run(
            f"mkdir -p {folder}\n"
            f"printf '[Service]\\nWatchdogSec={WATCHDOG_S}\\n' > {folder}/test.conf\n"
            f"systemctl daemon-reload\nsystemctl restart {unit}"
        )
        self.assertEqual(machine.show(unit, "WatchdogUSec"), f"{WATCHDOG_S}s")

    def test_a_cut_uplink_is_told_and_no_matter_for_the_watchdog(self) -> None:
        world = self.world
        before = world.cabinet.shows(AGENT, "MainPID", "NRestarts")
        until("the uplink is there", lambda: world.status().startswith("uplink 1 of 1"))
        world.network.cut()
        begun = time.monotonic()
        try:
            until("the status says so", lambda: world.status().startswith("uplink 0 of 1"))
            world.wait_for_energy()
            # The watchdog would have struck three times.
            until("time has passed", lambda: time.monotonic() > begun + 3 * WATCHDOG_S)
            # A start does not need it either.
            world.cabinet.run(f"systemctl restart {AGENT}")
            self.assertTrue(world.status().startswith("uplink 0 of 1"), world.status())
            self.assertTrue(world.is_charging(Hosts.session))
        finally:
            world.network.heal()
        until("the uplink is back", lambda: world.status().startswith("uplink 1 of 1"))
        after = world.cabinet.shows(AGENT, "MainPID", "NRestarts")
        self.assertNotEqual(after[0], before[0], "restarted by hand")
        self.assertEqual(after[1], "0")
        self.assertNotIn("watchdog", world.cabinet.journal(f"_PID=1 -u {AGENT} --since=-{WATCHDOG_S * 3}s"))

    def test_an_upgrade_restarts_what_runs_and_the_session_goes_on(self) -> None:
        world = self.world
        self._newer("cabinet", "edge-cp")
        world.cabinet.run("echo '# mine' >> /etc/edge-cp/example.toml")
        former = world.main_pid(world.cabinet, AGENT)
        world.cabinet.run(world.edge_guide.take("upgrade"), cwd="/root/here/newer")
        until("the agent is back", lambda: world.is_up_again(world.cabinet, AGENT, former))
        self.assertEqual(self._version(world.cabinet, "edge-cp"), "99.0.0-1")
        self.assertIn("# mine", world.cabinet.run("cat /etc/edge-cp/example.toml"))
        until("it charges", lambda: world.is_charging(Hosts.session))

        self._newer("hub", "central")
        world.hub.run("sed -i 's/^operator_name.*/operator_name = \"Upgraded\"/' /etc/ev/central.toml")
        former = world.main_pid(world.hub, "central")
        nats = world.main_pid(world.hub, "ev-nats")
        world.hub.run("apt-get install -y ./central_*.deb", cwd="/root/here/newer")
        until("central is back", lambda: world.is_up_again(world.hub, "central", former))
        self.assertEqual(self._version(world.hub, "central"), "99.0.0-1")
        self.assertIn("Upgraded", world.hub.run("cat /etc/ev/central.toml"))
        self.assertEqual(world.main_pid(world.hub, "ev-nats"), nats)
        world.wait_for_energy()

    def _newer(self, machine: str, program: str) -> None:
        target = self.world.folder / machine / "newer"
        target.mkdir()
        (found,) = (self.world.folder / "newer").glob(f"{program}_*.deb")
        shutil.copy(found, target)

    def _version(self, machine: Machine, package: str) -> str:
        return machine.run(f"dpkg-query -W -f '${{Version}}' {package}")

    def test_the_session_ends_with_all_of_its_energy(self) -> None:
        world = self.world
        self.assertTrue(world.is_charging(Hosts.session))
        world.driver(f"stop {Hosts.session}")
        until("energy has ended", lambda: world.connector()["state"] != "charging")
        world.ctl("unplug CP-001")

        def ended() -> bool:
            (session,) = world.driver(f"status {Hosts.session}")["sessions"]
            return session["state"] in ("completed", "failed")

        until("the session has ended", ended)
        receipt = world.driver(f"receipt {Hosts.session}")
        metered = world.register_mwh() - Hosts.register_before_mwh
        self.assertGreater(metered, 0)
        self.assertEqual(receipt["status"], "completed")
        # The agent began anew without an uplink, and so without central's time. Nothing else is odd.
        self.assertLessEqual(set(receipt["flags"]), {"clock_unsure"})
        self.assertEqual(Decimal(receipt["energy_wh"]) * 1000, metered)

    # -- what goes wrong

    def test_a_bad_configuration_is_said_once_and_not_tried_again(self) -> None:
        cabinet = self.world.cabinet
        cabinet.run(
            "sed 's/^phases = 3/phases = 2/' /etc/edge-cp/cabinet.toml > /etc/edge-cp/broken.toml\n"
            "cp -r /etc/edge-cp/keys/cabinet /etc/edge-cp/keys/broken\n"
            "cp /etc/edge-cp/cabinet.toml /etc/edge-cp/keyless.toml"
        )
        for name, status, words in (
            ("broken", EXIT_CONFIG, "phases: 2 is neither 1 nor 3"),
            ("keyless", EXIT_CREDENTIALS, "status=243/CREDENTIALS"),
        ):
            with self.subTest(name=name):
                unit = f"edge-cp@{name}"
                started = cabinet.ask(f"systemctl start {unit}")
                self.assertNotEqual(started.returncode, 0)
                self._failed_for_good(cabinet, unit, status)
                self.assertIn(words, cabinet.journal(f"-u {unit}"))
        cabinet.run("rm -r /etc/edge-cp/broken.toml /etc/edge-cp/keyless.toml /etc/edge-cp/keys/broken")
        cabinet.run("systemctl reset-failed")

        hub = self.world.hub
        hub.run("cp /etc/ev/central.toml /tmp/good\necho 'colour = 1' >> /etc/ev/central.toml")
        restarted = hub.ask("systemctl restart central")
        self.assertNotEqual(restarted.returncode, 0)
        self._failed_for_good(hub, "central", EXIT_CONFIG)
        said = hub.journal("-u central -n 20")
        self.assertIn("/etc/ev/central.toml", said)
        self.assertIn("colour", said)
        hub.run("cp /tmp/good /etc/ev/central.toml\nsystemctl start central")
        self.assertEqual(hub.show("central", "StatusText"), "answers")

    def _failed_for_good(self, machine: Machine, unit: str, status: str) -> None:
        names = ("ActiveState", "ExecMainStatus", "NRestarts", "Result")
        shown = machine.shows(unit, *names)
        self.assertEqual(shown, ["failed", status, "0", "exit-code"])
        # A restart would be announced in this state at once: `activating`, `auto-restart`.
        self.assertEqual(machine.show(unit, "SubState"), "failed")

    def test_a_target_stops_and_starts_all_agents(self) -> None:
        cabinet = self.world.cabinet
        cabinet.run("systemctl stop edge-cp.target")
        self.assertEqual(cabinet.show(AGENT, "ActiveState"), "inactive")
        cabinet.run("systemctl start edge-cp.target")
        until("the agent runs", lambda: cabinet.show(AGENT, "ActiveState") == "active")

    # -- the end

    def test_a_removal_leaves_no_agent_and_a_purge_nothing(self) -> None:
        cabinet, guide = self.world.cabinet, self.world.edge_guide
        # One that hangs on no target: the agent of somebody who tries something out.
        cabinet.run(
            "sed 's/CP-001/CP-002/' /etc/edge-cp/cabinet.toml > /etc/edge-cp/second.toml\n"
            "mkdir -p /etc/edge-cp/keys/second\n"
            "cp /etc/edge-cp/keys/cabinet/ca.crt /etc/edge-cp/keys/second"
        )
        self.world.hub.run("central enrol charge-point CP-002")
        creds = self.world.hub.run("cat /etc/ev/keys/creds/charge-point/CP-002.creds")
        (self.world.folder / "cabinet" / "second.creds").write_text(creds)
        cabinet.run("cp second.creds /etc/edge-cp/keys/second/CP-002.creds")
        cabinet.run("systemctl start edge-cp@second")
        self.assertEqual(len(self._agents()), 2)

        cabinet.run(guide.take("remove"))
        self.assertEqual(self._agents(), [])
        self.assertEqual(cabinet.ask("pgrep -x edge-cp").stdout, "")
        # Installed again, what was enabled runs again, with its state.
        cabinet.run("test -e /var/lib/edge-cp/cabinet/CP-001.db")
        cabinet.run("apt-get install -y ./edge-cp_*.deb", cwd="/root/here/newer")
        until("the agent runs", lambda: cabinet.show(AGENT, "ActiveState") == "active")

        cabinet.run(guide.take("purge"))
        self.assertEqual(self._agents(), [])
        left = cabinet.run(
            "find / -xdev \\( -path /proc -o -path /sys -o -path /root/here -o -path /var/log "
            "-o -path /var/cache/man \\) -prune "
            "-o -name '*edge-cp*' -print"
        ).splitlines()
        # What the test itself has put there, and apt's own memory.
        left = [path for path in left if not path.startswith(f"/etc/systemd/system/{AGENT}.service.d")]
        self.assertEqual(left, [])
        # Names of units whose files are gone may stay in systemd's memory, as `not-found`.
        listed = "systemctl list-units --all --no-legend --state=loaded 'edge-cp*'"
        self.assertEqual(cabinet.run(listed), "")
        self.assertEqual(guide.left_out(), [])

    def _agents(self) -> List[str]:
        listed = self.world.cabinet.run(
            "systemctl list-units --no-legend --plain --state=active,activating,reloading "
            "'edge-cp@*.service'"
        )
        return [line.split()[0] for line in listed.splitlines()]

    def test_a_removed_hub_keeps_what_cannot_be_made_again(self) -> None:
        hub = self.world.hub
        hub.run("apt-get remove -y central")
        for unit in ("central", "ev-nats"):
            self.assertEqual(hub.ask(f"systemctl is-active {unit}").stdout.strip(), "inactive")
        self.assertIn("Upgraded", hub.run("cat /etc/ev/central.toml"))
        said = hub.run("apt-get purge -y central driver-cli")
        self.assertIn("kept /etc/ev/keys", said)
        self.assertIn("kept /var/lib/private/ev-nats", said)
        self.assertEqual(hub.run("ls /etc/ev").split(), ["keys"])
        hub.run("test -e /etc/ev/keys/realm.json")
        self.assertTrue(hub.run("find /var/lib/private/ev-nats -name '*.blk'"))
        listed = hub.ask("systemctl list-unit-files --no-legend 'central*' 'ev-nats*'")
        self.assertEqual(listed.stdout, "")


class InOrder(unittest.TestLoader):
    """Of definition."""

    def getTestCaseNames(self, testCaseClass: type) -> List[str]:  # noqa: N802
        return [name for name in vars(testCaseClass) if name.startswith("test_")]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("--state", type=Path, required=True, help="where the root is kept")
    top.add_argument("--cargo-deb", type=Path, required=True, help="the program cargo-deb")
    top.add_argument("--programs", type=Path, required=True, help="the folder of built programs")
    top.add_argument("--wheels", type=Path, required=True, help="has nats-server's")
    top.add_argument("--keep-going", action="store_true", help="after a failure too")
    return top


def main() -> int:
    global WORLD
    if os.geteuid() != 0:
        print("hosts: machines are made by root; run it with sudo", file=sys.stderr)
        return 1
    options = parser().parse_args()
    # As Ctrl-C does: machines are stopped first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with alone(options.state):
            WORLD = World(options)
            try:
                return play(options)
            finally:
                WORLD.end()
    except Broken as broken:
        print(f"hosts: {broken}", file=sys.stderr)
        return 1


def play(options: argparse.Namespace) -> int:
    begun = time.monotonic()
    WORLD.make()
    made = time.monotonic()
    suite = InOrder().loadTestsFromTestCase(Hosts)
    # What comes after a failure builds on it.
    runner = unittest.TextTestRunner(verbosity=2, failfast=not options.keep_going)
    result = runner.run(suite)
    failed = len({str(test) for test, _ in result.failures + result.errors})
    left = suite.countTestCases() - result.testsRun
    print(
        f"hosts: {result.testsRun - failed} passed, {failed} failed, {left} not run; machines made "
        f"in {made - begun:.0f} s, all in {time.monotonic() - begun:.0f} s"
    )
    if failed:
        for machine in (WORLD.hub, WORLD.cabinet):
            print(f"--- the last of {machine.name}'s journal")
            print(machine.ask("journalctl --no-pager -n 40 -o short-precise").stdout)
    return 1 if failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
