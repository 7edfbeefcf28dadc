//! nats-server's own numbers, as the public exporter shows them (nats-io/prometheus-nats-exporter
//! 0.20, `-varz -jsz=all`): the same names, labels and types, so that dashboards made for it work.
//! Numbers of `/varz` are `gnatsd_varz_<field>`, nested fields joined by `_`. All are gauges there, what
//! only grows among them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use prometheus::{GaugeVec, Opts, Registry, proto::MetricFamily};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Numbers of one server that are shown. It has some hundred.
const FIELDS_MAX: usize = 500;
/// How deep they are nested: the server's statistics of JetStream are three deep.
const DEPTH_MAX: usize = 4;
/// Streams of one server that are shown. Ours are four, and the server's own few.
const STREAMS_MAX: usize = 64;
/// Consumers of one stream that are shown. A central has one for the ledger, a reader of the audit or
/// the receipts one each for a moment.
const CONSUMERS_MAX: usize = 64;

/// What the exporter leaves out.
const LEFT_OUT: [&str; 9] = [
    "leaf",
    "trusted_operators_claim",
    "cluster_tls_timeout",
    "cluster_cluster_port",
    "cluster_auth_timeout",
    "gateway_port",
    "gateway_auth_timeout",
    "gateway_tls_timeout",
    "gateway_connect_retries",
];
/// Texts that the exporter shows, as label `value` of a 1, or as milliseconds where they are times.
const TEXTS: [&str; 8] = [
    "server_id",
    "server_name",
    "version",
    "domain",
    "leader",
    "name",
    "start",
    "config_load_time",
];

const SERVER: [&str; 6] = [
    "server_id",
    "server_name",
    "cluster",
    "domain",
    "meta_leader",
    "is_meta_leader",
];
const ACCOUNT: [&str; 3] = ["account", "account_name", "account_id"];
const STREAM: [&str; 4] = [
    "stream_name",
    "stream_leader",
    "is_stream_leader",
    "stream_raft_group",
];
const CONSUMER: [&str; 4] = [
    "consumer_name",
    "consumer_leader",
    "is_consumer_leader",
    "consumer_desc",
];

/// A server, and whether it has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSeen {
    /// Its id, another one after each start.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Whether it has answered.
    pub is_up: bool,
}

/// What the servers have said.
#[derive(Debug, Default)]
pub struct Said {
    /// Of each server that is known.
    pub servers: Vec<ServerSeen>,
    /// `/varz` of those that answered, by server id.
    pub varz: BTreeMap<String, Map<String, Value>>,
    /// `/jsz` of those.
    pub jsz: BTreeMap<String, Jsz>,
}

/// `/jsz`, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Jsz {
    disabled: bool,
    config: JszConfig,
    streams: u64,
    consumers: u64,
    messages: u64,
    bytes: u64,
    meta_cluster: Option<Meta>,
    account_details: Vec<Account>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JszConfig {
    max_memory: i64,
    max_storage: i64,
    domain: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    name: String,
    leader: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Account {
    name: String,
    id: String,
    memory: u64,
    storage: u64,
    reserved_memory: u64,
    reserved_storage: u64,
    stream_detail: Vec<Stream>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Group {
    leader: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Stream {
    name: String,
    cluster: Option<Group>,
    config: Option<StreamConfig>,
    state: StreamState,
    consumer_detail: Vec<Consumer>,
    stream_raft_group: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamConfig {
    max_bytes: i64,
    max_msgs: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    consumer_count: u64,
    num_subjects: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Consumer {
    name: String,
    ts: String,
    config: ConsumerConfig,
    delivered: Position,
    ack_floor: Position,
    num_ack_pending: u64,
    num_redelivered: u64,
    num_waiting: u64,
    num_pending: u64,
    cluster: Option<Group>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ConsumerConfig {
    description: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Position {
    consumer_seq: u64,
    stream_seq: u64,
    last_active: String,
}

impl Said {
    /// As families of metrics.
    ///
    /// # Errors
    /// Only for a defect in a metric's definition.
    pub fn families(&self) -> Result<Vec<MetricFamily>, prometheus::Error> {
        let mut shown = Shown::default();
        for server in &self.servers {
            shown.set(
                "ev_nats_server_up",
                "1 while a server answers; 0 for an hour after it no longer does.",
                &["server_id", "server_name"],
                &[&server.id, &server.name],
                f64::from(u8::from(server.is_up)),
            )?;
        }
        for (id, varz) in &self.varz {
            let mut left = FIELDS_MAX;
            shown.varz(id, "", varz, DEPTH_MAX, &mut left)?;
        }
        for (id, jsz) in &self.jsz {
            let name = self.servers.iter().find(|server| server.id == *id);
            shown.jsz(id, name.map_or("", |server| &server.name), jsz)?;
        }
        Ok(shown.registry.gather())
    }
}

/// Whether it is this replica that shows the servers.
///
/// # Errors
/// Only for a defect in the metric's definition.
pub fn speaks(yes: bool) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let mut shown = Shown::default();
    shown.set(
        "ev_nats_bridge_speaks",
        "1 at the one replica that shows the numbers of nats-server.",
        &[],
        &[],
        truth_value(yes),
    )?;
    Ok(shown.registry.gather())
}

/// Families that are made as they come.
#[derive(Default)]
struct Shown {
    registry: Registry,
    gauges: BTreeMap<String, (GaugeVec, usize)>,
    refused: BTreeSet<String>,
}

impl Shown {
    fn set(
        &mut self,
        name: &str,
        help: &str,
        labels: &[&str],
        values: &[&str],
        value: f64,
    ) -> Result<(), prometheus::Error> {
        if !self.gauges.contains_key(name) {
            let family = GaugeVec::new(Opts::new(name, help), labels)?;
            self.registry.register(Box::new(family.clone()))?;
            self.gauges.insert(name.to_owned(), (family, labels.len()));
        }
        match self.gauges.get(name) {
            Some((family, labels)) if *labels == values.len() => {
                family.with_label_values(values).set(value);
            }
            // A number at one server and a text at another.
            Some(_) | None => {
                self.refused.insert(name.to_owned());
            }
        }
        Ok(())
    }

    fn varz(
        &mut self,
        server: &str,
        prefix: &str,
        fields: &Map<String, Value>,
        depth: usize,
        left: &mut usize,
    ) -> Result<(), prometheus::Error> {
        for (key, value) in fields {
            let field = joined(prefix, key);
            if LEFT_OUT.contains(&field.as_str()) || *left == 0 {
                continue;
            }
            let name = format!("gnatsd_varz_{field}");
            match value {
                Value::Number(number) => {
                    *left -= 1;
                    let number = number.as_f64().unwrap_or(f64::NAN);
                    self.set(&name, &field, &["server_id"], &[server], number)?;
                }
                Value::String(text) if TEXTS.contains(&key.as_str()) => {
                    *left -= 1;
                    match text.parse::<Timestamp>() {
                        Ok(at) => {
                            let ms = whole(at.as_millisecond());
                            self.set(&name, &field, &["server_id"], &[server], ms)?;
                        }
                        Err(_) => {
                            let labels = ["server_id", "value"];
                            self.set(&name, &field, &labels, &[server, text], 1.0)?;
                        }
                    }
                }
                Value::Object(nested) if depth > 1 => {
                    self.varz(server, &field, nested, depth - 1, left)?;
                }
                Value::Object(_)
                | Value::String(_)
                | Value::Null
                | Value::Bool(_)
                | Value::Array(_) => {}
            }
        }
        Ok(())
    }

    fn jsz(&mut self, id: &str, name: &str, jsz: &Jsz) -> Result<(), prometheus::Error> {
        let (cluster, leader, is_leader) = match &jsz.meta_cluster {
            Some(meta) => (
                meta.name.as_str(),
                meta.leader.as_str(),
                meta.leader == name,
            ),
            None => ("", "", true),
        };
        let domain = jsz.config.domain.as_str();
        let server = [id, name, cluster, domain, leader, truth(is_leader)];
        for (field, help, value) in [
            (
                "jetstream_disabled",
                "JetStream is disabled.",
                truth_value(jsz.disabled),
            ),
            ("total_streams", "Streams.", count(jsz.streams)),
            ("total_consumers", "Consumers.", count(jsz.consumers)),
            ("total_messages", "Stored messages.", count(jsz.messages)),
            ("total_message_bytes", "Stored bytes.", count(jsz.bytes)),
            (
                "max_memory",
                "Memory that streams may use.",
                whole(jsz.config.max_memory),
            ),
            (
                "max_storage",
                "Storage that streams may use.",
                whole(jsz.config.max_storage),
            ),
        ] {
            let metric = format!("jetstream_server_{field}");
            self.set(&metric, help, &SERVER, &server, value)?;
        }
        let mut streams = 0;
        for account in &jsz.account_details {
            let of_account = [&server[..], &[&account.name, &account.name, &account.id]].concat();
            let labels = [&SERVER[..], &ACCOUNT].concat();
            for (field, help, value) in [
                (
                    "max_memory",
                    "Memory that is reserved for the account.",
                    account.reserved_memory,
                ),
                (
                    "max_storage",
                    "Storage that is reserved for the account.",
                    account.reserved_storage,
                ),
                (
                    "memory_used",
                    "Memory that the account uses.",
                    account.memory,
                ),
                (
                    "storage_used",
                    "Storage that the account uses.",
                    account.storage,
                ),
            ] {
                let metric = format!("jetstream_account_{field}");
                self.set(&metric, help, &labels, &of_account, count(value))?;
            }
            for stream in &account.stream_detail {
                streams += 1;
                if streams <= STREAMS_MAX {
                    self.stream(name, &labels, &of_account, stream)?;
                }
            }
        }
        Ok(())
    }

    fn stream(
        &mut self,
        server: &str,
        labels: &[&str],
        of_account: &[&str],
        stream: &Stream,
    ) -> Result<(), prometheus::Error> {
        let (leader, is_leader) = led(stream.cluster.as_ref(), server);
        let raft = stream.stream_raft_group.as_str();
        let of_stream = [of_account, &[&stream.name, leader, is_leader, raft]].concat();
        let labels = [labels, &STREAM].concat();
        let state = &stream.state;
        let mut values = vec![
            (
                "total_messages",
                "Messages of the stream.",
                count(state.messages),
            ),
            ("total_bytes", "Bytes of the stream.", count(state.bytes)),
            ("first_seq", "Its first sequence.", count(state.first_seq)),
            ("last_seq", "Its last sequence.", count(state.last_seq)),
            (
                "consumer_count",
                "Its consumers.",
                count(state.consumer_count),
            ),
            ("subject_count", "Its subjects.", count(state.num_subjects)),
        ];
        if let Some(config) = &stream.config {
            values.extend([
                (
                    "limit_bytes",
                    "Most bytes that it may have; -1 for no limit.",
                    whole(config.max_bytes),
                ),
                (
                    "limit_messages",
                    "Most messages that it may have; -1 for no limit.",
                    whole(config.max_msgs),
                ),
            ]);
        }
        for (field, help, value) in values {
            let metric = format!("jetstream_stream_{field}");
            self.set(&metric, help, &labels, &of_stream, value)?;
        }
        for consumer in stream.consumer_detail.iter().take(CONSUMERS_MAX) {
            self.consumer(server, &labels, &of_stream, consumer)?;
        }
        Ok(())
    }

    fn consumer(
        &mut self,
        server: &str,
        labels: &[&str],
        of_stream: &[&str],
        consumer: &Consumer,
    ) -> Result<(), prometheus::Error> {
        let (leader, is_leader) = led(consumer.cluster.as_ref(), server);
        let description = consumer.config.description.as_str();
        let of_consumer = [of_stream, &[&consumer.name, leader, is_leader, description]].concat();
        let labels = [labels, &CONSUMER].concat();
        let (delivered, acked) = (&consumer.delivered, &consumer.ack_floor);
        for (field, help, value) in [
            (
                "delivered_consumer_seq",
                "Messages delivered, repeats among them.",
                delivered.consumer_seq,
            ),
            (
                "delivered_stream_seq",
                "Last sequence delivered.",
                delivered.stream_seq,
            ),
            (
                "num_ack_pending",
                "Messages that are not acknowledged.",
                consumer.num_ack_pending,
            ),
            (
                "num_redelivered",
                "Messages delivered again.",
                consumer.num_redelivered,
            ),
            (
                "num_waiting",
                "Requests that wait for messages.",
                consumer.num_waiting,
            ),
            (
                "num_pending",
                "Messages that are not delivered.",
                consumer.num_pending,
            ),
            (
                "ack_floor_consumer_seq",
                "Up to where all deliveries are acknowledged.",
                acked.consumer_seq,
            ),
            (
                "ack_floor_stream_seq",
                "Up to where all messages are acknowledged.",
                acked.stream_seq,
            ),
        ] {
            let metric = format!("jetstream_consumer_{field}");
            self.set(&metric, help, &labels, &of_consumer, count(value))?;
        }
        for (field, help, at) in [
            (
                "last_delivery_seconds",
                "Seconds since the last delivery.",
                &delivered.last_active,
            ),
            (
                "last_ack_seconds",
                "Seconds since the last acknowledgement.",
                &acked.last_active,
            ),
        ] {
            if let (Ok(now), Ok(at)) = (consumer.ts.parse::<Timestamp>(), at.parse()) {
                let metric = format!("jetstream_consumer_{field}");
                let ago = now.duration_since(at).as_secs_f64();
                self.set(&metric, help, &labels, &of_consumer, ago)?;
            }
        }
        Ok(())
    }
}

/// A field's name: parts joined by `_`, as the exporter has them (`http_req_stats` has keys such as
/// `/connz`). What could be no name of a metric becomes `_` too.
fn joined(prefix: &str, key: &str) -> String {
    let mut name = String::new();
    for c in prefix.chars().chain(['_']).chain(key.chars()) {
        let c = if c.is_ascii_alphanumeric() { c } else { '_' };
        if c != '_' || !name.is_empty() && !name.ends_with('_') {
            name.push(c);
        }
    }
    name.trim_end_matches('_').to_owned()
}

fn led<'a>(group: Option<&'a Group>, server: &str) -> (&'a str, &'static str) {
    match group {
        Some(group) => (group.leader.as_str(), truth(group.leader == server)),
        None => ("", truth(true)),
    }
}

const fn truth(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}

fn truth_value(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

#[expect(clippy::cast_precision_loss, reason = "as the exporter has it")]
fn count(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "as the exporter has it")]
fn whole(value: i64) -> f64 {
    value as f64
}
