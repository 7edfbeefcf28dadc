"""Charge point: one of them, everything that central knows of it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from .kit import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    YELLOW,
    Column,
    Head,
    Look,
    Place,
    Query,
    connector_states,
    labels_of,
    large,
    lines,
    listing,
    state_words,
    timeline,
    wall,
)

CP = '{cp="$cp"}'


def build(runbook: str) -> dashboard.Dashboard:
    panels = [
        large(
            Head(1, "Uplink", "Whether its heartbeats arrive.", Place(0, 0, 4, 4), "charge-points-offline"),
            Look(
                "none",
                words={"1": ("online", GREEN), "0": ("offline", RED)},
                steps=[(None, RED), (1, GREEN)],
                no_value="unknown",
            ),
            Query(f"max(ev_cp_up{CP})"),
        ),
        large(
            Head(
                2,
                "Last heartbeat",
                "How long ago. One comes every five seconds.",
                Place(4, 0, 4, 4),
                "charge-points-offline",
            ),
            Look("s", 0, steps=[(None, GREEN), (16, RED)]),
            Query(f"time() - max(ev_cp_last_heartbeat_timestamp_seconds{CP})"),
        ),
        large(
            Head(3, "Spool", "Records on its disk that central has not confirmed.", Place(8, 0, 4, 4), "spool-backlog"),
            Look("none", 0, steps=[(None, GREEN), (100, YELLOW), (1000, RED)], no_value="offline"),
            Query(f"max(ev_cp_spool_records{CP})"),
        ),
        large(
            Head(4, "Clock offset", "Its clock less central's.", Place(12, 0, 4, 4), "clocks-skewed"),
            Look("s", 0, steps=[(None, RED), (-2, GREEN), (2, RED)], no_value="not known"),
            Query(f"max(ev_cp_clock_offset_seconds{CP})"),
        ),
        large(
            Head(5, "Agent runs for", "Since the agent began; a low value is a restart.", Place(16, 0, 4, 4)),
            Look("s", 1, steps=[(None, BLUE)]),
            Query(f"time() - max(ev_cp_start_timestamp_seconds{CP})"),
        ),
        large(
            Head(
                6,
                "Access ends in",
                "The first end among its credential, its certificate and the authorities that it knows.",
                Place(20, 0, 4, 4),
                "charge-points-expire",
            ),
            Look("s", 0, steps=[(None, RED), (7 * 86400, ORANGE), (30 * 86400, GREEN)]),
            Query(f"max(ev_cp_access_expires_at_timestamp_seconds{CP}) - time()"),
        ),
        timeline(
            Head(
                7,
                "Connectors",
                "The state of each connector, as drivers see it.",
                Place(0, 4, 24, 6),
                "chargers-offline",
            ),
            Look("none", words=state_words()),
            Query(
                connector_states('cp="$cp", ', "connector"),
                "connector {{connector}}",
            ),
        ),
        timeline(
            Head(
                8,
                "Uplink and sessions",
                "Whether it was online, and which connector had a session.",
                Place(0, 10, 12, 6),
                "charge-points-offline",
            ),
            Look("none", words={"1": ("yes", GREEN), "0": ("no", GREY)}),
            Query(f"max(ev_cp_up{CP})", "online"),
            Query(f"max by (connector) (ev_connector_session{CP})", "session on {{connector}}"),
        ),
        timeline(
            Head(
                9,
                "Problems",
                "What its agent says is wrong. Empty when all is well.",
                Place(12, 10, 12, 6),
                "chargers-offline agent-storage-failed clocks-unsure spool-behind-central",
            ),
            Look("none", words={"1": ("yes", RED)}),
            Query(f"max by (problem) (ev_cp_problem{CP})", "{{problem}}"),
        ),
        lines(
            Head(10, "Power", "By connector.", Place(0, 16, 12, 8)),
            Look("watt", least=0),
            Query(f"max by (connector) (ev_connector_power_watts{CP})", "connector {{connector}}"),
        ),
        large(
            Head(
                11,
                "Energy metered",
                "By how much the registers rose in the shown time.",
                Place(12, 16, 6, 8),
                "meter-anomalies records-missing records-quarantined",
            ),
            Look("kwatth", 2, steps=[(None, BLUE)]),
            Query(
                f"max by (connector) (increase(ev_connector_energy_joules_total{CP}[$__range])) / 3.6e6",
                "connector {{connector}}",
            ),
        ),
        listing(
            Head(
                12,
                "Odd records, ever",
                "Spool records that were set aside (quarantined), never came (missing) or told of a "
                "meter that fell or jumped (anomaly).",
                Place(18, 16, 6, 8),
                "meter-anomalies records-missing records-quarantined",
            ),
            Query(f"max by (what) (ev_cp_odd_records_total{CP})"),
            [
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
        lines(
            Head(
                13,
                "Spool",
                "Records on its disk that central has not confirmed; no line while offline.",
                Place(0, 24, 12, 7),
                "spool-backlog",
            ),
            Look("none", 0, 0),
            Query(f"max(ev_cp_spool_records{CP})", "records"),
            colours={"records": PURPLE},
        ),
        lines(
            Head(
                14,
                "Clock offset",
                "Its clock less central's; no line while offline or not known.",
                Place(12, 24, 12, 7),
                "clocks-skewed",
            ),
            Look("s"),
            Query(f"max(ev_cp_clock_offset_seconds{CP})", "offset"),
            colours={"offset": YELLOW},
        ),
        listing(
            Head(15, "What it is", "Its site and the version of its agent.", Place(0, 31, 24, 4)),
            Query(f"max by (cp, site, version) (ev_cp_info{CP})"),
            [
                Column("cp", "Charge point"),
                Column("site", "Site"),
                Column("version", "Agent"),
            ],
            "unknown",
        ),
    ]
    return wall(
        "ev-charge-point",
        "One charge point: connectors, sessions, power, spool, uplink, clock, problems.",
        panels,
        runbook,
        "now-6h",
        [labels_of("cp", "cp", "ev_cp_info", "Charge point")],
    )


__all__ = ["build"]
