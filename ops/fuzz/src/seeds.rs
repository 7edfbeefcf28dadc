//! Where a search begins: what is committed in `corpus/`, and what the contract's fixtures and
//! shipped files give.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ev_contract::wire::{Encoding, encode};

use crate::{Target, border_first_byte, replicas, wire_first_byte};

/// The folder of what is committed for a target.
#[must_use]
pub fn corpus_dir(target: &Target) -> PathBuf {
    here().join("corpus").join(target.name)
}

/// Everything that a target is to hold for, with a name for each.
///
/// # Errors
/// When a file cannot be read.
pub fn seeds(target: &Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut seeds = Vec::new();
    for (name, bytes) in files(&corpus_dir(target))? {
        if name == PACK_NAME {
            let found = unpack(&bytes).into_iter().enumerate();
            seeds.extend(found.map(|(n, input)| (format!("{name} {n}"), input)));
        } else {
            seeds.push((name, bytes));
        }
    }
    let fixtures = files(&here().join("../../nats/tests/fixtures"))?;
    match target.name {
        "wire" => seeds.extend(fixtures.iter().filter_map(|f| prefixed(f, word_byte))),
        "border" => {
            for subject in BORDER {
                seeds.extend(fixtures.iter().filter_map(|f| {
                    prefixed(f, |name, encoding| {
                        let (verb, types) = subject;
                        types
                            .iter()
                            .any(|t| name.starts_with(t))
                            .then(|| border_first_byte(verb, encoding))
                            .flatten()
                    })
                }));
            }
        }
        "record" => seeds.extend(records(&fixtures)),
        "subject" => seeds.extend(
            BORDER
                .iter()
                .map(|(subject, _)| ((*subject).to_owned(), subject.as_bytes().to_vec())),
        ),
        "frame" | "snapshot" => {
            let (frames, snapshot) = replicas::story(&noise(4_096));
            if target.name == "frame" {
                let named = frames.into_iter().enumerate();
                seeds.extend(named.map(|(n, frame)| (format!("story frame {n}"), frame)));
            } else {
                seeds.push(("story snapshot".into(), snapshot));
            }
        }
        "cabinet" | "replicas" => {
            seeds.extend((1..9).map(|n| (format!("noise {n}"), noise(n * 256))));
        }
        _ => {}
    }
    Ok(seeds)
}

/// The file with what searches found: each input after its length in two bytes.
pub const PACK_NAME: &str = "found.pack";

/// As many of the inputs, from the first on, as fit.
#[must_use]
pub fn pack(inputs: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
    let mut packed = Vec::new();
    for input in inputs {
        let Ok(len) = u16::try_from(input.len()) else {
            break;
        };
        if packed.len() + 2 + input.len() > bytes_max {
            break;
        }
        packed.extend_from_slice(&len.to_be_bytes());
        packed.extend_from_slice(input);
    }
    packed
}

fn unpack(mut packed: &[u8]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    while let Some((len, rest)) = packed.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (input, rest) = rest.split_at(len);
        inputs.push(input.to_vec());
        packed = rest;
    }
    inputs
}

/// Which fixtures come on which subject.
const BORDER: &[(&str, &[&str])] = &[
    ("ev.v1.driver.alice.start", &["start."]),
    ("ev.v1.driver.alice.stop", &["stop."]),
    ("ev.v1.driver.alice.status", &["status."]),
    ("ev.v1.driver.alice.list", &["list."]),
    ("ev.v1.driver.alice.history", &["history."]),
    ("ev.v1.driver.alice.receipt", &["receipt."]),
    ("ev.v1.op.olga.cp_ls", &["cp_ls."]),
    ("ev.v1.op.olga.cp_enable", &["cp_act."]),
    ("ev.v1.op.olga.session_ls", &["session_ls."]),
    ("ev.v1.op.olga.session_start", &["session_start."]),
    ("ev.v1.op.olga.session_end", &["session_end."]),
    ("ev.v1.op.olga.session_adjust", &["session_adjust."]),
    ("ev.v1.op.olga.driver_block", &["driver_block."]),
    ("ev.v1.op.olga.tariff_set", &["tariff_set."]),
    ("ev.v1.op.olga.tariff_ls", &["tariff_ls."]),
    ("ev.v1.cp.CP-001.sync", &["sync."]),
    ("ev.v1.cp.CP-001.evt", &["evt."]),
    ("ev.v1.cp.CP-001.hb", &["hb."]),
];

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, in order; none when it is not there.
fn files(dir: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    paths
        .into_iter()
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok((name.into_owned(), fs::read(&path)?))
        })
        .collect()
}

/// A fixture's bytes after the byte that says what they are.
fn prefixed(
    (name, bytes): &(String, Vec<u8>),
    first: impl Fn(&str, Encoding) -> Option<u8>,
) -> Option<(String, Vec<u8>)> {
    let encoding = match name.rsplit_once('.')?.1 {
        "json" => Encoding::Json,
        "msgpack" => Encoding::MsgPack,
        _ => return None,
    };
    let mut seed = vec![first(name, encoding)?];
    seed.extend_from_slice(bytes);
    Some((name.clone(), seed))
}

/// `<type>.full.json` or `<type>.min.json`, where the type itself may have a dot.
fn word_byte(name: &str, encoding: Encoding) -> Option<u8> {
    let (word, _variant) = name.rsplit_once('.')?.0.rsplit_once('.')?;
    Some(wire_first_byte(word, encoding))
}

/// The records inside of the fixtures of runs.
fn records(fixtures: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for (name, bytes) in fixtures {
        if !name.starts_with("evt") || !name.ends_with(".msgpack") {
            continue;
        }
        let Ok(run) =
            ev_contract::wire::decode::<ev_contract::v1::EvtRequest>(bytes, Encoding::MsgPack)
        else {
            continue;
        };
        for (n, record) in run.records.iter().enumerate() {
            if let Ok(bytes) = encode(record, Encoding::MsgPack) {
                found.push((format!("{name} {n}"), bytes));
            }
        }
    }
    found
}

/// The same bytes each time, without a pattern (xorshift64*).
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len as u64;
    (0..len)
        .map(|_| {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes()[0]
        })
        .collect()
}
