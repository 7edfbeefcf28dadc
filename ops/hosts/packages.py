#!/usr/bin/env python3
"""Puts built programs, their manual, units and configuration into Debian packages.

`ops/dev packages` builds the programs and calls this; tests call it with other programs and other
versions.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = ["central", "edge-cp", "driver-cli"]


def build(
    cargo_deb: Path,
    programs: Path,
    work: Path,
    out: Path,
    version: Optional[str] = None,
    fast: bool = False,
    only: Sequence[str] = PROGRAMS,
) -> List[Path]:
    """Returns the packages. `work` is laid out as cargo-deb expects a target folder to be."""
    release = work / "release"
    shutil.rmtree(work, ignore_errors=True)
    release.mkdir(parents=True)
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for program in only:
        # Line tables are most of a program's size, and stay where it was built.
        call(["strip", "-o", release / program, programs / program])
        call([release / program, "manual", release / "manual" / program])
        for page in (release / "manual" / program / "man").iterdir():
            # Without a time, so that the same page is the same file.
            page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        argv: List[object] = [cargo_deb, "--package", program, "--no-build", "--no-strip"]
        argv += ["--output", out, "--quiet"]
        if version:
            argv += ["--deb-version", version]
        if fast:
            argv += ["--fast"]
        printed = call(argv, {"CARGO_TARGET_DIR": str(work)})
        made.append(Path(printed.strip().splitlines()[-1]) if printed.strip() else out)
    return made


def call(argv: Sequence[object], env: Optional[dict] = None) -> str:
    words = [str(word) for word in argv]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"packages: `{' '.join(words)}` ended with exit code {done.returncode}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cargo-deb", type=Path, required=True, help="the program cargo-deb")
    parser.add_argument("--programs", type=Path, required=True, help="the folder of built programs")
    parser.add_argument("--work", type=Path, required=True, help="a folder to work in; is emptied")
    parser.add_argument("--out", type=Path, required=True, help="where packages are put")
    parser.add_argument("--deb-version", help="instead of the crate's with revision 1")
    args = parser.parse_args()
    for package in build(args.cargo_deb, args.programs, args.work, args.out, args.deb_version):
        print(package)


if __name__ == "__main__":
    main()
