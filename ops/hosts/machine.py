"""Bare Debian machines with real systemd: containers of systemd-nspawn on a debootstrap root."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, List, Optional, TypeVar

RELEASE = "bookworm"
# Of systemd what a server has; pip, which the guide installs and the container cannot fetch; what
# reads man pages and completions.
INCLUDE = ["systemd", "systemd-sysv", "dbus", "python3-pip", "man-db", "zsh", "fish"]
# Nothing that waits here takes long; this is for machines under load.
PATIENCE_S = 120.0
POLL_EVERY_S = 0.1
SHUTDOWN_S = 30.0
# Asks systemd, as process 1 of a container, to power off (systemd(1), SIGRTMIN+4).
POWER_OFF = signal.SIGRTMIN + 4

T = TypeVar("T")


class Broken(Exception):
    """What was to happen on a machine did not."""


def until(what: str, probe: Callable[[], Optional[T]], patience_s: float = PATIENCE_S) -> T:
    """Asks until the answer is true."""
    deadline = time.monotonic() + patience_s
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise Broken(f"waited {patience_s:g} s in vain until {what}")
        time.sleep(POLL_EVERY_S)


def base_root(state: Path) -> Path:
    """A bare root, made once for what it includes: some minutes, and 300 MB from a Debian mirror."""
    key = hashlib.sha256(" ".join([RELEASE, *INCLUDE]).encode()).hexdigest()[:12]
    root = state / f"root-{key}"
    if root.is_dir():
        return root
    state.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=state, prefix="making-"))
    print(f"hosts: making a bare Debian root in {root}, once; some minutes", file=sys.stderr, flush=True)
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(INCLUDE)}", RELEASE, str(made)]
    log = state / "debootstrap.log"
    with log.open("wb") as out:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
    if done.returncode != 0:
        shutil.rmtree(made, ignore_errors=True)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
        raise Broken(f"`{' '.join(argv)}` failed:\n{tail}")
    made.chmod(0o755)
    made.rename(root)
    return root


class Network:
    """A network of its own with nothing in it but this machine, so that ports are as in the guide."""

    ADDRESS = "10.77.0.1/32"

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        mine = os.readlink("/proc/self/ns/net")
        self.path = f"/proc/{self.holder.pid}/ns/net"
        until("the network is there", lambda: os.readlink(self.path) != mine)
        self._ip("link", "set", "lo", "up")
        self.heal()

    def _ip(self, *words: str) -> None:
        argv = ["nsenter", f"--net={self.path}", "ip", *words]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)

    def cut(self) -> None:
        """Nothing gets to the hub's address any more, nor back; connections are not closed."""
        self._ip("address", "del", self.ADDRESS, "dev", "lo")

    def heal(self) -> None:
        self._ip("address", "replace", self.ADDRESS, "dev", "lo")

    def end(self) -> None:
        self.holder.kill()
        self.holder.wait()


class Machine:
    """One that has booted."""

    def __init__(self, name: str, root: Path, network: Network, folder: Path) -> None:
        """`folder` is there as /root/here."""
        self.name = name
        self.root = Path(tempfile.mkdtemp(dir=root.parent, prefix=f"{name}-"))
        # Hard links: nothing is written below, since what is written lies in an overlay.
        argv = ["cp", "--archive", "--link", f"{root}/.", str(self.root)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        self.log = (root.parent / f"{name}.log").open("wb")
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine=ev-{name}-{os.getpid()}"]
            + ["--volatile=overlay", "--register=no", "--keep-unit", "--console=pipe"]
            + ["--resolv-conf=off", "--timezone=off", "--link-journal=no"]
            + [f"--network-namespace-path={network.path}"]
            + [f"--bind={folder}:/root/here", "--boot"],
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        try:
            until(f"{name} has booted", self._has_booted)
        except BaseException:
            self.end()
            raise

    def _leader(self) -> Optional[int]:
        path = f"/proc/{self.process.pid}/task/{self.process.pid}/children"
        try:
            children = Path(path).read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    def _has_booted(self) -> bool:
        if self.process.poll() is not None:
            said = Path(self.log.name).read_text(errors="replace").strip()
            raise Broken(f"systemd-nspawn of {self.name} ended: {said}")
        if not self._leader():
            return False
        return self.ask("systemctl is-system-running").stdout.strip() in ("running", "degraded")

    def ask(self, script: str, cwd: str = "/root/here") -> "subprocess.CompletedProcess[str]":
        """What a shell on the machine says to this, whatever its exit code."""
        env = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]
        # pip finds what was fetched outside, since nothing can be fetched in here.
        env += ["PIP_NO_INDEX=1", "PIP_FIND_LINKS=/root/here/wheels", "DEBIAN_FRONTEND=noninteractive"]
        argv = ["nsenter", f"--target={self._leader()}", "--all", "--", *env]
        argv += ["bash", "-euc", f"cd {cwd}\n{script}"]
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=PATIENCE_S,
            check=False,
            text=True,
        )

    def run(self, script: str, cwd: str = "/root/here") -> str:
        """What it says, which must be success."""
        try:
            done = self.ask(script, cwd)
        except subprocess.TimeoutExpired as expired:
            raise Broken(f"{self.name}: still runs after {PATIENCE_S:g} s:\n{script}\n{expired.stdout}")
        if done.returncode != 0:
            raise Broken(
                f"{self.name}: exit code {done.returncode} of\n{script}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def shows(self, unit: str, *properties: str) -> List[str]:
        """Properties of a unit, in the order in which they were asked for."""
        shown = self.run(f"systemctl show '{unit}' --property={','.join(properties)}")
        pairs = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        return [pairs[name] for name in properties]

    def show(self, unit: str, name: str) -> str:
        return self.shows(unit, name)[0]

    def journal(self, words: str) -> str:
        return self.run(f"journalctl --no-pager -o cat {words}")

    def end(self) -> None:
        leader = self._leader()
        if self.process.poll() is None and leader:
            os.kill(leader, POWER_OFF)
        try:
            self.process.wait(SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.root, ignore_errors=True)
