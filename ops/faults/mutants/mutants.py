#!/usr/bin/env python3
"""Puts one deliberate bug at a time into a copy of the tree and demands that its check fails.

`ops/dev faults mutants` runs it. The list, with what each bug breaks, is in mutants.toml beside it.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Set, Tuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent.parent
LIST = HERE / "mutants.toml"
STATE = ROOT / ".dev" / "mutants"
TREE = STATE / "tree"
TARGET = STATE / "target"
LOGS = STATE / "logs"

# Seconds. A first build compiles all dependencies; a mutant may make a check go round in circles.
BUILD_MAX_S = 1_800.0
CHECK_MAX_S = 600.0
# What a build says when the code is at fault, and not the machine.
NO_CODE = "error: could not compile"
LINES_SHOWN = 12

EXAMPLES = """\
examples:
  ops/dev faults mutants
  ops/dev faults mutants --only horizon --only epoch
  ops/dev faults mutants --list
  ops/dev faults mutants --check
"""


class Failure(Exception):
    """Ends the run with a message for the person at the terminal."""


@dataclass(frozen=True)
class Check:
    """Something that can fail."""

    name: str
    build: List[str]
    run: str
    # How its output says that {expect} failed.
    caught: str
    # How its output names whatever failed: one group.
    said: str
    # Where what it can say is written.
    names_in: str
    # What is added to the command where a mutant does not say it.
    args: str = ""
    env: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mutant:
    """A deliberate bug."""

    name: str
    breaks: str
    file: str
    find: str
    replace: str
    check: str
    expect: str
    args: str


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: Optional[int]
    output: str


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: Mutant
    caught: bool
    by: str
    seconds: float
    said: Set[str]


def note(text: str) -> None:
    print(f"mutants: {text}", file=sys.stderr, flush=True)


def read_list() -> Tuple[Dict[str, Check], List[Mutant]]:
    with LIST.open("rb") as file:
        table = tomllib.load(file)
    checks = {name: Check(name=name, **rest) for name, rest in table["checks"].items()}
    mutants = [
        Mutant(**{"args": checks[entry["check"]].args, **entry}) for entry in table["mutants"]
    ]
    return checks, mutants


# --- Whether the list fits the tree -------------------------------------------


def misfits(checks: Dict[str, Check], mutants: Sequence[Mutant]) -> List[str]:
    """What is wrong with the list."""
    wrong: List[str] = []
    seen: Set[str] = set()
    for mutant in mutants:
        if mutant.name in seen:
            wrong.append(f"{mutant.name}: is there twice")
        seen.add(mutant.name)
        path = ROOT / mutant.file
        times = path.read_text().count(mutant.find) if path.is_file() else 0
        if times != 1:
            wrong.append(f"{mutant.name}: what it replaces is in {mutant.file} {times} times")
        if mutant.find == mutant.replace:
            wrong.append(f"{mutant.name}: changes nothing")
        check = checks[mutant.check]
        if not named_in(ROOT / check.names_in, mutant.expect):
            wrong.append(f"{mutant.name}: nothing in {check.names_in} is called {mutant.expect!r}")
    return wrong


def named_in(place: Path, expect: str) -> bool:
    name = expect.rpartition("::")[2].replace('"', '\\"')
    files = [place] if place.is_file() else sorted(place.rglob("*.rs"))
    return any(name in file.read_text() for file in files)


# --- The copy of the tree -----------------------------------------------------


def copy_tree() -> None:
    """Brings the copy up to date. What has not changed keeps its time, so that cargo trusts it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    names = {name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()}
    for old in sorted(TREE.rglob("*"), reverse=True):
        if old.is_dir():
            if not any(old.iterdir()):
                old.rmdir()
        elif str(old.relative_to(TREE)) not in names:
            old.unlink()
    for name in names:
        source, copy = ROOT / name, TREE / name
        there = source.read_bytes()
        if not copy.is_file() or copy.read_bytes() != there:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(there)
        copy.chmod(source.stat().st_mode & 0o777)


# --- Running ------------------------------------------------------------------


def environment(check: Check) -> Dict[str, str]:
    return {
        **os.environ,
        "CARGO_TARGET_DIR": str(TARGET),
        # Built often and run for seconds: neither fast code nor lines for a debugger.
        "CARGO_INCREMENTAL": "1",
        "CARGO_PROFILE_RELEASE_OPT_LEVEL": "1",
        "CARGO_PROFILE_RELEASE_DEBUG": "0",
        # With it, what an interrupted build has left can fail to link.
        "CARGO_PROFILE_RELEASE_LTO": "off",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "CARGO_TERM_COLOR": "never",
        "EV_BIN_DIR": str(TARGET / "debug"),
        "EV_CRASH_BIN_DIR": str(TARGET / "debug"),
        **check.env,
    }


def run(command: str, env: Dict[str, str], log: Path, most_s: float) -> Ran:
    """Runs a command to its end, or kills it and all that it has started."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [part.format(target=TARGET) for part in shlex.split(command)],
            cwd=TREE,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code: Optional[int] = None
        try:
            code = process.wait(most_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    return Ran(code, log.read_text(errors="replace"))


def build(check: Check, env: Dict[str, str], log: Path) -> Ran:
    """The first step that fails, or the last."""
    built = Ran(0, "")
    for command in check.build:
        built = run(command, env, log, BUILD_MAX_S)
        if built.code != 0:
            break
    return built


def log_name(name: str, step: str) -> Path:
    return LOGS / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.{step}.log"


def tail(output: str) -> str:
    return "\n".join(f"    {line}" for line in output.splitlines()[-LINES_SHOWN:])


def command_of(check: Check, args: str) -> str:
    return f"{check.run} {args}".strip()


def unmutated(check: Check, args: str) -> None:
    """A check that fails anyway catches nothing."""
    name = f"without {check.name} {args}"
    env = environment(check)
    built = build(check, env, log_name(name, "build"))
    if built.code != 0:
        raise Failure(f"{check.name} cannot be built without any mutant\n{tail(built.output)}")
    ran = run(command_of(check, args), env, log_name(name, "check"), CHECK_MAX_S)
    if ran.code != 0:
        raise Failure(f"`{command_of(check, args)}` fails without any mutant\n{tail(ran.output)}")
    if re.search(r"running 0 tests", ran.output) and not re.search(r"[1-9]\d* passed", ran.output):
        raise Failure(f"`{command_of(check, args)}` runs nothing")


def try_mutant(mutant: Mutant, check: Check) -> Verdict:
    begun = time.monotonic()
    path = TREE / mutant.file
    sound = path.read_text()
    path.write_text(sound.replace(mutant.find, mutant.replace))
    try:
        env = environment(check)
        built = build(check, env, log_name(mutant.name, "build"))
        if built.code == 0:
            command = command_of(check, mutant.args)
            ran = run(command, env, log_name(mutant.name, "check"), CHECK_MAX_S)
            caught, by = judge(mutant, check, ran)
            said = set(re.findall(check.said, ran.output, re.MULTILINE))
        else:
            caught, said = False, set()
            by = "DOES NOT COMPILE" if NO_CODE in built.output else "DOES NOT BUILD"
            note(f"{mutant.name}: {by}\n{tail(built.output)}")
    finally:
        path.write_text(sound)
    return Verdict(mutant, caught, by, time.monotonic() - begun, said)


def judge(mutant: Mutant, check: Check, ran: Ran) -> Tuple[bool, str]:
    if ran.code == 0:
        return False, "NOTHING: IT SURVIVES"
    if re.search(check.caught.format(expect=re.escape(mutant.expect)), ran.output, re.MULTILINE):
        return True, mutant.expect
    note(f"{mutant.name}: {check.name} fails in another way\n{tail(ran.output)}")
    return False, "ANOTHER FAILURE" if ran.code is not None else "IT DOES NOT END"


# --- The command --------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="ops/dev faults mutants",
        description=f"{EXAMPLES}\n{__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="only those whose name, file or check has this in it",
    )
    made.add_argument("--list", action="store_true", help="show them and end")
    made.add_argument(
        "--check", action="store_true", help="only see whether each still fits the tree"
    )
    return made


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    checks, all_mutants = read_list()
    wrong = misfits(checks, all_mutants)
    if wrong:
        raise Failure("\n".join(["the list does not fit the tree", *wrong]))
    if args.check:
        print(f"{len(all_mutants)} mutants apply")
        return 0
    mutants = [
        m
        for m in all_mutants
        if not args.only or any(o in f"{m.name} {m.file} {m.check}" for o in args.only)
    ]
    if not mutants:
        raise Failure("there is no such mutant; --list shows them")
    if args.list:
        for mutant in mutants:
            print(f"{mutant.name}\n    {mutant.file}; breaks: {mutant.breaks}")
            print(f"    {mutant.check} {mutant.args}: {mutant.expect}".replace(" :", ":"))
        return 0
    for folder in (TREE, TARGET, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    copy_tree()
    for name, extra in dict.fromkeys((m.check, m.args) for m in mutants):
        note(f"without mutant: {name} {extra}")
        unmutated(checks[name], extra)
    verdicts: List[Verdict] = []
    for n, mutant in enumerate(mutants, 1):
        verdict = try_mutant(mutant, checks[mutant.check])
        note(f"{n}/{len(mutants)} {mutant.name}: {verdict.by} ({verdict.seconds:.0f} s)")
        verdicts.append(verdict)
    return report(checks, verdicts)


def report(checks: Dict[str, Check], verdicts: Sequence[Verdict]) -> int:
    width = max(len(v.mutant.name) for v in verdicts)
    by_width = max(len(v.by) for v in verdicts)
    for v in verdicts:
        print(f"{v.mutant.name:<{width}}  {v.by:<{by_width}}  {v.seconds:6.0f}")
    for name in checks:
        said = sorted(set().union(*(v.said for v in verdicts if v.mutant.check == name)))
        if said:
            print(f"{name} said: {', '.join(said)}")
    missed = [v for v in verdicts if not v.caught]
    print(f"{len(verdicts) - len(missed)} of {len(verdicts)} mutants caught as they should be")
    return 1 if missed else 0


def stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        note(str(failure))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
