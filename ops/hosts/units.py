#!/usr/bin/env python3
"""Checks the systemd units: that systemd understands every line, and how much they are exposed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = [
    "central/systemd/central.service",
    "edge-cp/systemd/edge-cp@.service",
    "edge-cp/systemd/edge-cp.target",
    "nats/systemd/ev-nats.service",
]
# Of what `systemd-analyze security` counts from 0 to 10, in tenths.
EXPOSURE_TENTHS_MAX = 15
# Programs of the packages are not on this machine; one that is on every machine stands in.
PROGRAM = re.compile(r"^(Exec\w+=)/usr/bin/(?:central|edge-cp|nats-server)\b", re.M)
STAND_IN = r"\1/bin/true"


def verify(names: List[str], folder: Path) -> List[str]:
    """What systemd says of the units. It ends with 0 whatever it says: nothing may be said at all."""
    argv = ["systemd-analyze", "verify", "--man=no", *(str(folder / name) for name in names)]
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_UNIT_PATH": f"{folder}:", "LANG": "C.UTF-8"}
    done = subprocess.run(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    said = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 and not said:
        said = [f"`{' '.join(argv)}` ended with exit code {done.returncode}"]
    return said


def exposure(unit: Path) -> List[str]:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    argv += [f"--threshold={EXPOSURE_TENTHS_MAX}", str(unit)]
    done = subprocess.run(
        argv,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )
    found = re.search(r"Overall exposure level for .*: ([\d.]+)", done.stdout)
    if not found:
        return [f"{unit.name}: systemd-analyze security says nothing of it: {done.stdout.strip()}"]
    print(f"{unit.name}: exposure {found.group(1)} of at most {EXPOSURE_TENTHS_MAX / 10}")
    if done.returncode == 0 and float(found.group(1)) <= EXPOSURE_TENTHS_MAX / 10:
        return []
    worst = [line for line in done.stdout.splitlines() if line.startswith("✗")]
    return [f"{unit.name}: exposed by {found.group(1)}", *worst]


def open_files(unit: Path) -> List[str]:
    """Connections are files: what systemd allows unless a unit says otherwise is soon used up."""
    if re.search(r"^LimitNOFILE=\d+$", unit.read_text(encoding="utf-8"), re.M):
        return []
    return [f"{unit.name}: says nothing of how many files it may open; give LimitNOFILE"]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for unit in UNITS:
            text = (ROOT / unit).read_text(encoding="utf-8")
            # A template is checked as one of its instances.
            target = Path(unit).name.replace("@.", "@cabinet.")
            (folder / target).write_text(PROGRAM.sub(STAND_IN, text), encoding="utf-8")
        names = sorted(path.name for path in folder.iterdir())
        faults = verify(names, folder)
        for service in (name for name in names if name.endswith(".service")):
            faults += exposure(folder / service)
            faults += open_files(folder / service)
    for fault in faults:
        print(f"units: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    if not shutil.which("systemd-analyze"):
        sys.exit("units: systemd-analyze is missing; as root: apt-get install systemd")
    sys.exit(main())
