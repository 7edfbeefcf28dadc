"""Fleet: is it well, what is wrong now, what did it earn."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from .kit import (
    BLUE,
    CONNECTOR_STATES,
    GREEN,
    GREY,
    ORANGE,
    RED,
    SESSION_PHASES,
    YELLOW,
    Column,
    Head,
    Look,
    Place,
    Query,
    connector_states,
    counted,
    known_best,
    large,
    lines,
    listing,
    per_minute,
    ranks,
    state_words,
    timeline,
    wall,
)

# One row for everything that is wrong, each with the same labels. Central answers most of it from
# what it knows itself; `offline` is what heartbeats no longer say.
WRONG_NOW = """
label_replace(max by (cp) (ev_cp_up) == 0, "problem", "offline", "", "")
or label_replace(
  max by (cp, connector, state) (ev_connector_state{state=~"faulted|unavailable"}),
  "problem", "$1", "state", "(.*)")
or max by (cp, problem) (ev_cp_problem)
or label_replace(max by (cp) (ev_cp_spool_records) > 1000, "problem", "spool_backlog", "", "")
or label_replace(max by (cp) (abs(ev_cp_clock_offset_seconds)) > 2, "problem", "clock_skewed", "", "")
or label_replace(
  max by (cp) (ev_cp_access_expires_at_timestamp_seconds) - time() < 7 * 86400,
  "problem", "access_expires_soon", "", "")
or label_replace(max by (phase) (ev_sessions_stuck) > 0, "problem", "sessions_stuck", "", "")
or label_replace(max(ev_charge_points_with_two_agents) > 0, "problem", "two_agents", "", "")
or label_replace(max(ev_receipts_waiting) > 100, "problem", "receipts_waiting", "", "")
or label_replace(max by (kind) (ev_ledger_alarm) > 0, "problem", "ledger_alarm", "", "")
""".strip()

PROBLEMS = {
    "offline": ("offline", GREY),
    "faulted": ("faulted", RED),
    "unavailable": ("out of service", ORANGE),
    "charger_offline": ("charger offline", RED),
    "storage_failed": ("storage failed", RED),
    "clock_unsure": ("clock unsure", YELLOW),
    "clock_skewed": ("clock off by more than 2 s", YELLOW),
    "spool_behind_central": ("spool is behind central", RED),
    "spool_backlog": ("more than 1000 records wait", ORANGE),
    "stopping": ("agent is stopping", YELLOW),
    "access_expires_soon": ("access ends within 7 days", ORANGE),
    "sessions_stuck": ("sessions stuck", ORANGE),
    "two_agents": ("two agents, one identity", RED),
    "receipts_waiting": ("receipts wait", ORANGE),
    "ledger_alarm": ("ledger alarm", RED),
}

DENIED = 'ev_requests_total{result="denied"}'
OPEN = "plugged|preparing|charging|suspended_ev|suspended_evse|finishing"


def build(runbook: str) -> dashboard.Dashboard:
    panels = [
        large(
            Head(
                1,
                "Charge points online",
                "Share of all known charge points whose heartbeats arrive.",
                Place(0, 0, 4, 4),
                "charge-points-offline",
            ),
            Look("percentunit", 0, 0, 1, [(None, RED), (0.9, ORANGE), (0.98, GREEN)]),
            Query('max(ev_charge_points{reach="online"}) / max(sum by (instance) (ev_charge_points))'),
        ),
        large(
            Head(2, "Connectors in use", "Share of all connectors with a car, a session or both.", Place(4, 0, 4, 4)),
            Look("percentunit", 0, 0, 1, [(None, BLUE)]),
            Query(
                f'max(sum by (instance) (ev_connectors{{state=~"{OPEN}"}}))\n/ max(sum by (instance) (ev_connectors))'
            ),
        ),
        large(
            Head(3, "Open sessions", "Sessions that have not ended, in any phase.", Place(8, 0, 4, 4)),
            Look("none", 0, steps=[(None, BLUE)]),
            Query("sum(max by (phase) (ev_sessions))"),
        ),
        large(
            Head(4, "Power", "Of all connectors whose charge point is online.", Place(12, 0, 4, 4)),
            Look("watt", 1, steps=[(None, BLUE)]),
            Query("max(ev_power_watts)"),
        ),
        large(
            Head(
                5, "Energy on receipts", "On the receipts of sessions that ended in the shown time.", Place(16, 0, 4, 4)
            ),
            Look("kwatth", 2, steps=[(None, GREEN)]),
            Query("sum(increase(ev_receipts_energy_joules_total[$__range])) / 3.6e6"),
        ),
        large(
            Head(
                6,
                "Money on receipts",
                "Gross amount on the receipts of sessions that ended in the shown time, by currency.",
                Place(20, 0, 4, 4),
            ),
            Look("locale", 2, steps=[(None, GREEN)]),
            Query("sum by (currency) (increase(ev_receipts_amount_total[$__range])) > 0", "{{currency}}"),
        ),
        listing(
            Head(
                7,
                "What is wrong now",
                "Every charge point and connector that cannot serve a driver, or soon will not, "
                "with its problem. A click on a charge point leads to its wall.",
                Place(0, 4, 12, 7),
                "where-to-look-first",
            ),
            Query(WRONG_NOW),
            [
                Column("problem", "Problem", words=PROBLEMS),
                Column("cp", "Charge point", leads_to=("ev-charge-point", "cp")),
                Column("connector", "Connector", width=100),
                Column("phase", "Phase", width=120),
            ],
            "nothing",
        ),
        listing(
            Head(
                8,
                "Alerts",
                "What the alert rules say: `firing` has been told to somebody, `pending` is true and "
                "not yet for long enough.",
                Place(12, 4, 12, 7),
                "",
            ),
            Query("max by (alertname, severity, alertstate, cp) (ALERTS)"),
            [
                Column("alertname", "Alert"),
                Column(
                    "severity",
                    "Severity",
                    width=110,
                    words={"critical": ("critical", RED), "warning": ("warning", ORANGE)},
                ),
                Column(
                    "alertstate", "State", width=110, words={"firing": ("firing", RED), "pending": ("pending", YELLOW)}
                ),
                Column("cp", "Charge point", width=130, leads_to=("ev-charge-point", "cp")),
            ],
            "none",
        ),
        timeline(
            Head(
                9,
                "Connectors that are out",
                "Connectors that were faulted, out of service, offline or not heard in the shown time, and when.",
                Place(0, 11, 12, 8),
                "chargers-offline",
            ),
            Look("none", words=state_words()),
            Query(
                connector_states("", "cp, connector") + " >= 9",
                "{{cp}}/{{connector}}",
            ),
        ),
        lines(
            Head(10, "Connectors by state", "How many connectors are in each state.", Place(12, 11, 12, 8)),
            Look("none", 0, 0),
            Query(known_best("ev_connectors", 'state="unknown"', "state") + " > 0", "{{state}}"),
            stacked=True,
            colours=CONNECTOR_STATES,
        ),
        lines(
            Head(
                11,
                "Sessions by phase",
                "Open sessions. Those that stay in a phase are `stuck`.",
                Place(0, 19, 8, 8),
                "sessions-stuck",
            ),
            Look("none", 0, 0),
            Query("max by (phase) (ev_sessions)", "{{phase}}"),
            stacked=True,
            colours=SESSION_PHASES,
        ),
        lines(
            Head(12, "Power", "Of all connectors whose charge point is online.", Place(8, 19, 8, 8)),
            Look("watt", least=0),
            Query("max(ev_power_watts)", "power"),
            colours={"power": BLUE},
        ),
        lines(
            Head(
                13,
                "Sessions ended",
                "By result and reason, as a rate by the minute.",
                Place(16, 19, 8, 8),
                "sessions-end-wrong",
            ),
            Look("cpm", least=0),
            Query(
                per_minute("result, reason", "ev_sessions_ended_total"),
                "{{result}}: {{reason}}",
            ),
            stacked=True,
            bars=True,
        ),
        lines(
            Head(
                14,
                "Refusals by code",
                "Requests answered with a `no`, by its code, as a rate by the minute.",
                Place(0, 27, 10, 8),
                "",
            ),
            Look("cpm", least=0),
            Query(per_minute("code", DENIED), "{{code}}"),
            stacked=True,
            bars=True,
        ),
        ranks(
            Head(15, "Refusals in the shown time", "By code, the most frequent first.", Place(10, 27, 6, 8)),
            Look("none", 0, 0, steps=[(None, ORANGE)]),
            Query(f"sort_desc(sum by (code) ({counted(DENIED, '$__range')}) > 0)", "{{code}}"),
        ),
        listing(
            Head(
                16,
                "Odd records in the shown time",
                "Spool records that were set aside (quarantined), never came (missing) or told of a meter that "
                "fell or jumped (anomaly), by charge point.",
                Place(16, 27, 8, 8),
                "records-quarantined records-missing meter-anomalies",
            ),
            Query(f"sort_desc(round(max by (cp, what) ({counted('ev_cp_odd_records_total', '$__range')})) > 0)"),
            [
                Column("cp", "Charge point", leads_to=("ev-charge-point", "cp")),
                Column(
                    "what",
                    "What",
                    words={
                        "quarantined": ("quarantined", ORANGE),
                        "missing": ("missing", RED),
                        "anomaly": ("anomaly", YELLOW),
                    },
                ),
                Column("Value", "Records", "none", width=90),
            ],
            "none",
        ),
    ]
    return wall(
        "ev-fleet",
        "All charge points: states, sessions, energy, money, refusals, what is wrong now.",
        panels,
        runbook,
        "now-6h",
    )


__all__ = ["build"]
