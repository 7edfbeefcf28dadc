"""Reliability: what users were promised, how often it was kept, how much may still go wrong."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard

from .kit import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    AnyPanel,
    Head,
    Look,
    Place,
    Query,
    by_replica,
    large,
    lines,
    per_minute,
    timeline,
    wall,
)


@dataclass(frozen=True)
class Level:
    """A service level: `bad` and `all` are expressions over the window `{w}`."""

    title: str
    says: str
    bad: str
    all: str
    target: float
    runbook: str

    def kept(self, window: str) -> str:
        bad, every = self.bad.format(w=window), self.all.format(w=window)
        return f"1 - (\n  {bad}\n) / (\n  {every} > 0\n)"

    def budget_left(self, window: str) -> str:
        bad, every = self.bad.format(w=window), self.all.format(w=window)
        return f"1 - (\n  {bad}\n) / (\n  {every} > 0\n) / {1 - self.target:g}"

    def burns(self, window: str) -> str:
        bad, every = self.bad.format(w=window), self.all.format(w=window)
        return f"(\n  {bad}\n) / (\n  {every} > 0\n) / {1 - self.target:g}"


# As the recording rules in ops/prometheus/rules count them. A refusal (`denied`) is a true answer with its
# code and counts neither way; `error` was not decided.
STARTS = 'ev_request_seconds_count{{verb="start",result=~"accepted|error"}}[{w}]'
IN_TIME = 'ev_request_seconds_bucket{{verb="start",result="accepted",le="1"}}[{w}]'
OURS = "refused|fault|power_loss|reboot|reset|written_off|other"
LEVELS = [
    Level(
        "Starts accepted within 1 s",
        "Of the starts that were accepted or not decided, those accepted within a second of their arrival.",
        f"sum(increase({STARTS})) - sum(increase({IN_TIME}))",
        f"sum(increase({STARTS}))",
        0.99,
        "starts-slow requests-undecided",
    ),
    Level(
        "Sessions ended right",
        "Of the sessions that ended, those that did not fail for a reason on our side.",
        f'sum(increase(ev_sessions_ended_total{{{{result="failed",reason=~"{OURS}"}}}}[{{w}}])) or vector(0)',
        "sum(increase(ev_sessions_ended_total[{w}]))",
        0.99,
        "sessions-end-wrong",
    ),
    Level(
        "Receipts written",
        "Of the attempts to bring a receipt to the CDR stream, those after which it is there.",
        'sum(increase(ev_receipts_total{{result=~"failed|conflict"}}[{w}])) or vector(0)',
        "sum(increase(ev_receipts_total[{w}]))",
        0.999,
        "receipts-missing receipt-conflict",
    ),
]


def build(runbook: str) -> dashboard.Dashboard:
    panels: list[AnyPanel] = []
    for at, level in enumerate(LEVELS):
        x = at * 8
        first = at * 4 + 1
        objective = f"{level.target * 100:g} %"
        panels += [
            large(
                Head(
                    first,
                    level.title,
                    f"{level.says} In the shown time; the objective is {objective}.",
                    Place(x, 0, 4, 5),
                    level.runbook,
                ),
                Look("percentunit", 3, 0, 1, [(None, RED), (level.target, GREEN)]),
                Query(level.kept("$__range")),
            ),
            large(
                Head(
                    first + 1,
                    "Error budget left",
                    f"{level.title}: the share of what may go wrong, over the shown time, that has not. "
                    "Below zero the objective is missed.",
                    Place(x + 4, 0, 4, 5),
                    level.runbook,
                ),
                Look("percentunit", 0, None, 1, [(None, RED), (0.001, YELLOW), (0.25, GREEN)]),
                Query(level.budget_left("$__range")),
            ),
            lines(
                Head(
                    first + 2,
                    level.title,
                    f"{level.says} Over the last hour and 5 minutes at each moment.",
                    Place(x, 5, 8, 7),
                    level.runbook,
                ),
                Look("percentunit", None, None, 1, axis=(0.98, 1)),
                Query(level.kept("5m"), "5 minutes"),
                Query(level.kept("1h"), "1 hour"),
                colours={"5 minutes": YELLOW, "1 hour": BLUE},
            ),
            lines(
                Head(
                    first + 3,
                    "Error budget burns",
                    f"{level.title}: at which multiple of what the objective allows; at 1 all of it is "
                    "used up just at the end of the time that the objective speaks of.",
                    Place(x, 12, 8, 7),
                    level.runbook,
                ),
                Look("none", None, 0, axis=(0, 2)),
                Query(level.burns("5m"), "5 minutes"),
                Query(level.burns("1h"), "1 hour"),
                colours={"5 minutes": ORANGE, "1 hour": RED},
            ),
        ]
    start = 'ev_request_seconds_bucket{verb="start"}[5m]'
    panels += [
        lines(
            Head(
                13,
                "Time to answer a start",
                "From its arrival to the answer, whatever the answer is, over five minutes.",
                Place(0, 19, 8, 8),
                "starts-slow",
            ),
            Look("s", least=0),
            Query(f"histogram_quantile(0.5, sum by (le) (rate({start})))", "half"),
            Query(f"histogram_quantile(0.95, sum by (le) (rate({start})))", "95 of 100"),
            Query(f"histogram_quantile(0.99, sum by (le) (rate({start})))", "99 of 100"),
            colours={"half": GREEN, "95 of 100": YELLOW, "99 of 100": ORANGE},
        ),
        lines(
            Head(
                14,
                "Starts",
                "By result, as a rate by the minute: `denied` is a true refusal, `error` was not decided.",
                Place(8, 19, 8, 8),
                "starts-slow",
            ),
            Look("cpm", least=0),
            Query(per_minute("result", 'ev_requests_total{verb="start"}'), "{{result}}"),
            stacked=True,
            bars=True,
            colours={"accepted": GREEN, "denied": ORANGE, "error": RED},
        ),
        lines(
            Head(
                15,
                "Commands to charge points",
                "By verb and outcome, as a rate by the minute.",
                Place(16, 19, 8, 8),
                "chargers-offline",
            ),
            Look("cpm", least=0),
            Query(per_minute("verb, outcome", "ev_commands_total"), "{{verb}}: {{outcome}}"),
            stacked=True,
            bars=True,
        ),
        timeline(
            Head(
                16,
                "Replicas",
                "Whether each central answered; no colour where it could not be asked.",
                Place(0, 27, 8, 7),
                "nobody-answers central-down central-not-ready central-restarts",
            ),
            Look("none", words={"1": ("ready", GREEN), "0": ("not ready", RED)}),
            Query(by_replica("ev_ready"), "{{replica}}"),
        ),
        lines(
            Head(
                17,
                "Connectors that could serve",
                "Share of all connectors that were neither faulted, out of service, offline nor unknown.",
                Place(8, 27, 8, 7),
                "chargers-offline",
            ),
            Look("percentunit", 0, 0, 1),
            Query(
                '1 - min(sum by (instance) (ev_connectors{state=~"faulted|unavailable|offline|unknown"}))\n'
                "/ max(sum by (instance) (ev_connectors))",
                "could serve",
            ),
            colours={"could serve": GREEN},
        ),
        lines(
            Head(
                18,
                "Not let in, dropped",
                "Requests that were answered `overloaded` before they were read, by verb and why, and messages that "
                "the connection did not take; as a rate by the minute.",
                Place(16, 27, 8, 7),
                "requests-shed messages-dropped",
            ),
            Look("cpm", least=0),
            Query(per_minute("verb, why", "ev_refused_total"), "{{verb}}: {{why}}"),
            Query("60 * sum(rate(ev_messages_dropped_total[$__rate_interval]))", "dropped"),
            colours={"dropped": RED},
        ),
    ]
    return wall(
        "ev-reliability",
        "Service levels, error budgets and what they are made of.",
        panels,
        runbook,
        "now-7d",
    )


__all__ = ["build"]
