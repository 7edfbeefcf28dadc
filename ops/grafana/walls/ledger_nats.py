"""Ledger and NATS: how fast history is written, how far it is applied, how full the streams are."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from .kit import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Column,
    Head,
    Look,
    Place,
    Query,
    by_replica,
    large,
    lines,
    listing,
    per_minute,
    ranks,
    timeline,
    wall,
)

# Server and account names would make the same stream two after a failover.
STREAM = "max by (stream_name)"


def quantile(q: str, metric: str) -> str:
    return f"histogram_quantile({q}, sum by (le) (rate({metric}_bucket[5m])))"


def build(runbook: str) -> dashboard.Dashboard:
    panels = [
        large(
            Head(
                1,
                "Replicas that answer",
                "Centrals that are ready.",
                Place(0, 0, 4, 4),
                "nobody-answers central-down central-not-ready",
            ),
            Look("none", 0, steps=[(None, RED), (1, YELLOW), (2, GREEN)]),
            Query("sum(ev_ready)"),
        ),
        large(
            Head(
                2,
                "Ledger alarm",
                "Whether some replica found that acknowledged history was changed or lost.",
                Place(4, 0, 4, 4),
                "ledger-alarm",
            ),
            Look("none", words={"0": ("none", GREEN), "1": ("ALARM", RED)}, steps=[(None, GREEN), (1, RED)]),
            Query("max(ev_ledger_alarm)"),
        ),
        large(
            Head(
                3,
                "Append, 99 of 100",
                "Time until a frame was acknowledged and applied, now.",
                Place(8, 0, 4, 4),
                "frame-latency",
            ),
            Look("s", 1, steps=[(None, GREEN), (0.1, YELLOW), (0.5, RED)]),
            Query("histogram_quantile(0.99, sum by (le) (rate(ev_ledger_append_seconds_bucket[5m])))"),
        ),
        large(
            Head(
                4,
                "Apply lag",
                "Ledger messages that the replica furthest behind knows of and has not applied.",
                Place(12, 0, 4, 4),
                "ledger-apply-lag",
            ),
            Look("none", 0, steps=[(None, GREEN), (100, YELLOW), (1000, RED)]),
            Query("max(ev_ledger_apply_lag_messages)"),
        ),
        large(
            Head(
                5,
                "Receipts that wait",
                "Not known to be in the CDR stream.",
                Place(16, 0, 4, 4),
                "receipts-missing receipt-conflict",
            ),
            Look("none", 0, steps=[(None, GREEN), (10, YELLOW), (100, RED)]),
            Query("max(ev_receipts_waiting)"),
        ),
        large(
            Head(
                6,
                "Fullest stream",
                "Share of its limit that the fullest stream uses.",
                Place(20, 0, 4, 4),
                "stream-near-limit stream-without-leader",
            ),
            Look("percentunit", 2, 0, 1, [(None, GREEN), (0.6, YELLOW), (0.8, RED)]),
            Query(f"max({STREAM} (jetstream_stream_total_bytes)\n  / ({STREAM} (jetstream_stream_limit_bytes) > 0))"),
        ),
        lines(
            Head(
                7,
                "Append latency",
                "Time until a frame was acknowledged and applied, over five minutes.",
                Place(0, 4, 12, 8),
                "frame-latency",
            ),
            Look("s", least=0),
            Query(quantile("0.5", "ev_ledger_append_seconds"), "half"),
            Query(quantile("0.95", "ev_ledger_append_seconds"), "95 of 100"),
            Query(quantile("0.99", "ev_ledger_append_seconds"), "99 of 100"),
            colours={"half": GREEN, "95 of 100": YELLOW, "99 of 100": ORANGE},
        ),
        lines(
            Head(
                8,
                "Apply lag",
                "Ledger messages known and not applied, by replica.",
                Place(12, 4, 6, 8),
                "ledger-apply-lag",
            ),
            Look("none", 0, 0),
            Query(by_replica("ev_ledger_apply_lag_messages"), "{{replica}}"),
        ),
        lines(
            Head(
                9,
                "Ledger grows",
                "Frames appended, by replica, appends that had to be repeated, and what is no frame at all.",
                Place(18, 4, 6, 8),
                "ledger-junk",
            ),
            Look("ops", least=0),
            Query(by_replica("rate(ev_ledger_append_seconds_count[$__rate_interval])"), "{{replica}}"),
            Query("sum(rate(ev_ledger_append_retries_total[$__rate_interval]))", "repeated"),
            Query("sum(rate(ev_ledger_junk_messages_total[$__rate_interval]))", "no frames"),
            colours={"repeated": ORANGE, "no frames": RED},
        ),
        lines(
            Head(10, "Records in a frame", "What one fsync carries.", Place(0, 12, 6, 7)),
            Look("none", least=0),
            Query(
                "sum(rate(ev_ledger_frame_records_sum[5m]))\n/ sum(rate(ev_ledger_frame_records_count[5m]))",
                "mean",
            ),
            Query(quantile("0.95", "ev_ledger_frame_records"), "95 of 100"),
        ),
        lines(
            Head(11, "Frame size", "Of 512 KiB at most.", Place(6, 12, 6, 7)),
            Look("bytes", least=0),
            Query(
                "sum(rate(ev_ledger_frame_bytes_sum[5m]))\n/ sum(rate(ev_ledger_frame_bytes_count[5m]))",
                "mean",
            ),
            Query(quantile("0.95", "ev_ledger_frame_bytes"), "95 of 100"),
        ),
        lines(
            Head(
                12,
                "Void records",
                "Own records that another replica's forestalled, by kind: decided again.",
                Place(12, 12, 6, 7),
            ),
            Look("cpm", least=0),
            Query("60 * sum by (kind) (rate(ev_ledger_void_records_total[$__rate_interval]))", "{{kind}}"),
            stacked=True,
            bars=True,
        ),
        lines(
            Head(13, "Questions that wait", "For a frame, by replica.", Place(18, 12, 6, 7), "requests-undecided"),
            Look("none", 0, 0),
            Query(by_replica("ev_queue_length"), "{{replica}}"),
        ),
        lines(
            Head(
                14,
                "Receipts",
                "Brought to the CDR stream, by result, as a rate by the minute.",
                Place(0, 19, 6, 7),
                "receipts-missing receipt-conflict",
            ),
            Look("cpm", least=0),
            Query("60 * sum by (result) (rate(ev_receipts_total[$__rate_interval]))", "{{result}}"),
            colours={"written": GREEN, "failed": RED, "conflict": "dark-red"},
        ),
        lines(
            Head(
                15,
                "Ledger since the last snapshot",
                "Messages that a restart has to read, by replica.",
                Place(6, 19, 6, 7),
                "snapshots-fail",
            ),
            Look("none", 0, 0),
            Query(by_replica("(ev_ledger_applied_sequence - ev_snapshot_sequence)"), "{{replica}}"),
        ),
        lines(
            Head(
                16,
                "Audit",
                "Entries, by who acted and result, as a rate by the minute.",
                Place(12, 19, 6, 7),
                "audit-not-written",
            ),
            Look("cpm", least=0),
            Query(
                per_minute("kind, result", "ev_audit_entries_total"),
                "{{kind}}: {{result}}",
            ),
            stacked=True,
            bars=True,
        ),
        lines(
            Head(17, "Central: CPU", "In cores, by replica.", Place(18, 19, 6, 7)),
            Look("none", 2, 0),
            Query(by_replica('rate(process_cpu_seconds_total{job="central"}[5m])'), "{{replica}}"),
        ),
        ranks(
            Head(
                18,
                "Streams",
                "Share of each stream's limit in bytes that is used.",
                Place(0, 26, 8, 7),
                "stream-near-limit stream-without-leader",
            ),
            Look("percentunit", 2, 0, 1, [(None, GREEN), (0.6, YELLOW), (0.8, RED)]),
            Query(
                f"{STREAM} (jetstream_stream_total_bytes)\n/ ({STREAM} (jetstream_stream_limit_bytes) > 0)",
                "{{stream_name}}",
            ),
        ),
        listing(
            Head(
                19,
                "Streams in bytes",
                "What each stream holds.",
                Place(8, 26, 8, 7),
                "stream-near-limit stream-without-leader",
            ),
            Query(f"sort_desc({STREAM} (jetstream_stream_total_bytes))"),
            [
                Column("stream_name", "Stream"),
                Column("Value", "Size", "bytes", width=120),
            ],
            "none",
        ),
        lines(
            Head(
                20,
                "Connections",
                "To all servers, by the credential's role.",
                Place(16, 26, 8, 7),
                "connections-refused door-unwatched",
            ),
            Look("none", 0, 0),
            Query("max by (role) (ev_connections) > 0", "{{role}}"),
            stacked=True,
        ),
        lines(
            Head(
                21,
                "Connections refused and closed",
                "By reason, as a rate by the minute.",
                Place(0, 33, 8, 7),
                "connections-refused door-unwatched",
            ),
            Look("cpm", least=0),
            Query(per_minute("reason", "ev_connections_refused_total"), "refused: {{reason}}"),
            Query(per_minute("reason", "ev_connections_closed_total"), "closed: {{reason}}"),
            stacked=True,
            bars=True,
        ),
        lines(
            Head(22, "nats-server: messages", "In and out, all servers.", Place(8, 33, 8, 7)),
            Look("ops", least=0),
            Query("sum(rate(gnatsd_varz_in_msgs[$__rate_interval]))", "in"),
            Query("sum(rate(gnatsd_varz_out_msgs[$__rate_interval]))", "out"),
            colours={"in": BLUE, "out": GREEN},
        ),
        lines(
            Head(23, "nats-server: CPU", "In percent of one core, by server.", Place(16, 33, 4, 7)),
            Look("percent", least=0),
            Query(
                "max by (server_id) (gnatsd_varz_cpu)\n"
                "* on (server_id) group_left (value) max by (server_id, value) (gnatsd_varz_server_name)",
                "{{value}}",
            ),
        ),
        lines(
            Head(24, "nats-server: memory", "Resident, by server.", Place(20, 33, 4, 7)),
            Look("bytes", least=0),
            Query(
                "max by (server_id) (gnatsd_varz_mem)\n"
                "* on (server_id) group_left (value) max by (server_id, value) (gnatsd_varz_server_name)",
                "{{value}}",
            ),
        ),
        lines(
            Head(25, "Central: memory", "Resident, by replica.", Place(0, 40, 6, 6)),
            Look("bytes", least=0),
            Query(by_replica('process_resident_memory_bytes{job="central"}'), "{{replica}}"),
        ),
        lines(
            Head(
                27,
                "Receipts that wait",
                "Not known to be in the CDR stream, by replica; each finds out for itself.",
                Place(6, 40, 6, 6),
                "receipts-missing",
            ),
            Look("none", 0, 0),
            Query(by_replica("ev_receipts_waiting"), "{{replica}}"),
        ),
        lines(
            Head(
                26,
                "nats-server: slow consumers",
                "Connections that the server closed since they took too little, ever.",
                Place(12, 40, 6, 6),
                "slow-consumers",
            ),
            Look("none", 0, 0),
            Query("sum(gnatsd_varz_slow_consumers)", "slow consumers"),
            colours={"slow consumers": ORANGE},
        ),
        listing(
            Head(
                28,
                "Access of central ends in",
                "For each replica: its credentials, the authorities that it knows, the certificates that servers show.",
                Place(18, 40, 6, 6),
                "central-access-expires",
            ),
            Query(
                "sort(max by (replica, what) ((ev_expires_at_seconds - time())\n"
                "  * on (instance) group_left (replica) ev_build_info))"
            ),
            [Column("replica", "Replica"), Column("what", "What"), Column("Value", "Ends in", "s", width=80)],
            "not known",
        ),
        timeline(
            Head(
                29,
                "nats-server",
                "Whether each server answers central.",
                Place(0, 46, 12, 6),
                "nats-server-down nats-not-seen no-quorum jet-stream-disabled",
            ),
            Look("none", words={"1": ("up", GREEN), "0": ("DOWN", RED)}),
            Query("min by (server_name) (ev_nats_server_up)", "{{server_name}}"),
        ),
        lines(
            Head(
                30,
                "JetStream: storage used",
                "Of what each server may use.",
                Place(12, 46, 12, 6),
                "storage-near-limit",
            ),
            Look("percentunit", None, 0, 1, axis=(0, 1)),
            Query(
                "max by (server_id) (gnatsd_varz_jetstream_stats_storage\n"
                "  / (gnatsd_varz_jetstream_config_max_storage > 0))\n"
                "* on (server_id) group_left (value) max by (server_id, value) (gnatsd_varz_server_name)",
                "{{value}}",
            ),
        ),
    ]
    return wall(
        "ev-ledger-nats",
        "The ledger's latency, lag and frames, receipts, streams, nats-server.",
        panels,
        runbook,
        "now-3h",
    )


__all__ = ["build"]
