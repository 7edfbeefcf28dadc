"""The install guides as scripts: their fenced blocks of commands, by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List

DOCS = Path(__file__).resolve().parent.parent / "docs"
# A name in a comment that readers do not see, and the block below it.
STEP = re.compile(r"^<!-- step: ([a-z-]+) -->\n```sh\n(.*?)^```$", re.M | re.S)
FENCE = re.compile(r"^```sh$", re.M)


class Guide:
    """Remembers which of its steps were taken, so that none can be left out."""

    def __init__(self, name: str) -> None:
        self.name = name
        text = (DOCS / name).read_text(encoding="utf-8")
        steps = STEP.findall(text)
        self.steps: Dict[str, str] = dict(steps)
        if len(self.steps) != len(FENCE.findall(text)):
            raise ValueError(f"{name}: not every block of commands has a step name of its own")
        self.taken: List[str] = []

    def take(self, step: str) -> str:
        self.taken.append(step)
        return self.steps[step]

    def left_out(self) -> List[str]:
        return [step for step in self.steps if step not in self.taken]
