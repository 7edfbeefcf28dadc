//! The README is the contract for everybody who does not read Rust, so it is held to the crate:
//! every field, word, code, size and example.

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use ev_contract::{
    codes::Code,
    connector::{ConnectorState, FaultEffect, Phase, Service},
    limits,
    subjects::Subject,
    v1::{
        AuditKind, AuditOutcome, Availability, Awaited, CpEnrolment, EndCode, EndSource, EventKind,
        Flag, Origin, Outcome, PriceComponent, Reach, Status, TimeQuality,
    },
    wire::Encoding,
};
use serde_json::Value;
use support::{
    Case,
    values::{cases, facts, shapes},
    without, words,
};

#[test]
fn every_field_of_every_message_is_in_its_table() {
    let readme = Readme::read();
    for word in words() {
        let case = full(word);
        let fields = case
            .fields
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        let json = case.json();
        readme.has_fields(word, &fields, |field| !case.reads(&without(&json, field)));
    }
}

#[test]
fn every_field_of_every_structure_is_in_its_table() {
    let readme = Readme::read();
    let kinds = facts().len();
    let shapes = shapes();
    let records = shapes.len() - kinds;
    for (at, shape) in shapes.iter().enumerate() {
        let heading = if at < records {
            shape.name.to_owned()
        } else {
            format!("Record {}", shape.name)
        };
        readme.has_fields(&heading, &shape.fields, |field| {
            !shape.reads(&without(&shape.json, field))
        });
    }
}

#[test]
fn every_word_is_explained() {
    let readme = Readme::read();
    macro_rules! explained {
        ($($name:ident)+) => {$(
            let known: Vec<_> = $name::ALL.iter().map(|word| word.as_str().to_owned()).collect();
            let heading = concat!("Words of ", stringify!($name));
            let table = readme.table(heading);
            let there: Vec<_> = table.iter().map(|row| unquoted(&row[0]).to_owned()).collect();
            assert_eq!(there, known, "the table below `{heading}`");
        )+};
    }
    explained! {
        Status Phase ConnectorState Origin EndCode EndSource PriceComponent Flag Reach Service
        FaultEffect TimeQuality Outcome AuditKind AuditOutcome CpEnrolment Awaited EventKind
        Availability
    }
}

#[test]
fn the_table_of_codes_is_the_list_of_codes() {
    let readme = Readme::read();
    let mut expected = String::new();
    for &code in Code::ALL {
        let retryable = if code.retryable() { "yes" } else { "no" };
        let (message, hint) = (code.message("…"), code.hint());
        writeln!(expected, "| `{code}` | {message} | {hint} | {retryable} |").expect("memory");
    }
    let rows = readme.table("Codes");
    let there: String = rows.iter().fold(String::new(), |mut text, row| {
        writeln!(text, "| {} |", row.join(" | ")).expect("memory");
        text
    });
    assert!(
        there == expected,
        "the table of codes is out of date; it should be:\n{expected}"
    );
}

#[test]
fn every_example_is_read_and_means_what_it_says() {
    let readme = Readme::read();
    let cases = cases();
    let mut shown = BTreeSet::new();
    for block in readme.blocks("json") {
        let case = cases.iter().find(|case| case.word == block.label);
        let Some(case) = case else {
            panic!(
                "line {}: a JSON example of `{}`, which is no type",
                block.line, block.label
            )
        };
        let example: Value = serde_json::from_str(&block.text)
            .unwrap_or_else(|e| panic!("line {}: {e}", block.line));
        let read = (case.reencode)(block.text.as_bytes(), Encoding::Json)
            .unwrap_or_else(|e| panic!("line {}: {e}", block.line));
        // A field that the crate passes over, or a word that it does not know, would be lost.
        if let Some(lost) = lost(&example, &read, String::new()) {
            panic!("line {}: {lost} is not in the contract\n{read}", block.line);
        }
        shown.insert(block.label.clone());
    }
    for word in words() {
        assert!(shown.contains(word), "`{word}` has no example");
    }
}

#[test]
fn every_example_in_hex_is_read() {
    let readme = Readme::read();
    let blocks = readme.blocks("hex");
    assert!(!blocks.is_empty());
    for block in blocks {
        let bytes: Vec<u8> = block
            .text
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).expect("hex"))
            .collect();
        let read = (full(&block.label).reencode)(&bytes, Encoding::MsgPack);
        assert!(read.is_ok(), "line {}: {read:?}", block.line);
    }
}

#[test]
fn the_sizes_are_those_of_the_crate() {
    let readme = Readme::read();
    let text: String = readme
        .table("Sizes")
        .iter()
        .map(|row| row.join(" ") + "\n")
        .collect();
    for number in [
        limits::REQUEST_BYTES_MAX as i64,
        limits::REPLY_BYTES_MAX as i64,
        limits::NESTING_MAX as i64,
        limits::TEXT_BYTES_MAX as i64,
        limits::PAGE_ROWS_MAX as i64,
        limits::REQUEST_LIFE_MS_MAX,
        limits::CLOCK_TOLERANCE_MS,
        limits::LIMIT_ENERGY_WH_MAX,
        limits::LIMIT_TIME_S_MAX,
        limits::EVT_BYTES_MAX as i64,
        limits::EVT_RECORDS_MAX as i64,
        limits::EDGE_RECORD_BYTES_MAX as i64,
        limits::CONNECTORS_MAX as i64,
        limits::ENROLLED_AT_ONCE_MAX as i64,
    ] {
        let there = text
            .split(|c: char| !c.is_ascii_digit())
            .any(|n| n == number.to_string());
        assert!(there, "{number} is not among the sizes");
    }
    for (seconds, ms) in [(5, limits::HEARTBEAT_MS), (16, limits::OFFLINE_AFTER_MS)] {
        assert_eq!(
            seconds * 1000,
            ms,
            "the section about charge points says {seconds} s"
        );
    }
}

#[test]
fn the_subjects_are_those_of_the_crate() {
    let readme = Readme::read();
    for row in readme.table("Subjects") {
        let subject = unquoted(&row[0])
            .replace("<driver>", "alice")
            .replace("<operator>", "olga")
            .replace("<cp>", "CP-001")
            .replace("<session>", &support::values::session().to_string())
            .replace("<verb>", "verb")
            .replace("<kind>", "op")
            .replace("<name>", "olga")
            .replace("<replica>", "central-1")
            .replace("<n>", "1");
        let reserved = row[1] == "reserved";
        assert_eq!(Subject::parse(&subject).is_none(), reserved, "{subject}");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let readme = Readme::read();
    let mut anchors = BTreeSet::new();
    for line in readme.text.lines().filter(|line| line.starts_with('#')) {
        let slug: String = line
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                _ => None,
            })
            .collect();
        assert!(anchors.insert(slug.clone()), "two headings give #{slug}");
    }
    for link in readme.text.split("](").skip(1) {
        let target = link.split(')').next().unwrap_or_default();
        if let Some(anchor) = target.strip_prefix('#') {
            assert!(anchors.contains(anchor), "#{anchor} leads nowhere");
        } else if !target.starts_with("https://") {
            assert!(folder().join(target).exists(), "{target} does not exist");
        }
    }
}

/// What of an example is not in what the crate made of it.
fn lost(example: &Value, read: &Value, path: String) -> Option<String> {
    match (example, read) {
        (Value::Object(example), Value::Object(read)) => {
            example.iter().find_map(|(field, value)| {
                let path = format!("{path}/{field}");
                match read.get(field) {
                    Some(read) => lost(value, read, path),
                    // What equals its default may be left out by the crate.
                    None if *value == Value::Bool(false) => None,
                    None => Some(path),
                }
            })
        }
        (Value::Array(example), Value::Array(read)) if example.len() == read.len() => {
            let mut pairs = (0..).zip(example.iter().zip(read));
            pairs.find_map(|(i, (value, read)): (u32, _)| lost(value, read, format!("{path}/{i}")))
        }
        _ => (example != read).then_some(path),
    }
}

fn full(word: &str) -> Case {
    let case = cases()
        .into_iter()
        .find(|case| case.name == format!("{word}.full"));
    case.unwrap_or_else(|| panic!("`{word}` is no type"))
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// A cell without its code quotes.
fn unquoted(cell: &str) -> &str {
    cell.trim().trim_matches('`')
}

/// A fenced block: "```json start".
struct Block {
    label: String,
    text: String,
    line: usize,
}

struct Readme {
    text: String,
    /// The first table below each heading; headings without code quotes, and one that names
    /// several things once for each.
    tables: BTreeMap<String, Vec<Vec<String>>>,
}

impl Readme {
    fn read() -> Self {
        let text = fs::read_to_string(folder().join("README.md")).expect("the README");
        let mut tables: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
        let (mut headings, mut open, mut fenced) = (vec![], false, false);
        for line in text.lines() {
            if line.starts_with("```") {
                fenced = !fenced;
            }
            if fenced {
                continue;
            }
            if line.starts_with('#') {
                let heading = line.trim_start_matches('#').replace('`', "");
                headings = heading.split(',').map(|h| h.trim().to_owned()).collect();
                open = true;
            } else if line.starts_with("| ") && open {
                for heading in &headings {
                    let row = line
                        .trim_matches('|')
                        .split(" | ")
                        .map(|c| c.trim().to_owned());
                    tables
                        .entry(heading.clone())
                        .or_default()
                        .push(row.collect());
                }
            } else if !line.starts_with('|') && headings.iter().any(|h| tables.contains_key(h)) {
                open = false;
            }
        }
        Self { text, tables }
    }

    /// The rows of the table below a heading, its head left out.
    fn table(&self, heading: &str) -> &[Vec<String>] {
        match self.tables.get(heading).map(Vec::as_slice) {
            Some([_head, rows @ ..]) => rows,
            _ => panic!("there is no table below `{heading}`"),
        }
    }

    fn has_fields(&self, heading: &str, fields: &[String], required: impl Fn(&str) -> bool) {
        let expected: BTreeMap<&str, &str> = fields
            .iter()
            .map(|f| (f.as_str(), if required(f) { "yes" } else { "no" }))
            .collect();
        let table = self.table(heading);
        let there: BTreeMap<&str, &str> = table
            .iter()
            .map(|row| (unquoted(&row[0]), row[2].as_str()))
            .collect();
        assert_eq!(
            there, expected,
            "fields and whether they are required, below `{heading}`"
        );
        assert_eq!(
            table.len(),
            fields.len(),
            "a field comes twice below `{heading}`"
        );
        for row in table {
            assert!(
                row.len() == 4 && row.iter().all(|cell| !cell.is_empty()),
                "{row:?}"
            );
        }
    }

    fn blocks(&self, language: &str) -> Vec<Block> {
        let mut blocks = vec![];
        let mut open: Option<(bool, Block)> = None;
        for (line, text) in (1..).zip(self.text.lines()) {
            match (&mut open, text.strip_prefix("```")) {
                (None, Some(info)) => {
                    let (first, label) = info.split_once(' ').unwrap_or((info, ""));
                    let label = label.trim().to_owned();
                    let block = Block {
                        label,
                        text: String::new(),
                        line,
                    };
                    open = Some((first == language, block));
                }
                (Some(_), Some(_)) => blocks.extend(open.take()),
                (Some((_, block)), None) => {
                    block.text.push_str(text);
                    block.text.push('\n');
                }
                (None, None) => {}
            }
        }
        blocks
            .into_iter()
            .filter_map(|(wanted, block)| wanted.then_some(block))
            .collect()
    }
}
