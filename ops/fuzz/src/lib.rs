//! What must hold for any bytes. Each target takes bytes and panics where a promise is broken: a
//! decoder that panics, a message that changes when it is written again, a sequence of inputs after
//! which replicas differ.
//!
//! The targets know no fuzzer. `tests/corpus.rs` replays what is committed in `corpus/`, and
//! `ops/dev faults fuzz` lets libFuzzer look for more (`engine/`).

mod cabinet;
mod decoders;
mod input;
mod replicas;
mod seeds;

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name; its corpus is `corpus/<name>`.
    pub name: &'static str,
    /// Whether its input is structured: bytes that choose, not bytes of a format.
    pub structured: bool,
    /// What is done with bytes.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    format("wire", decoders::wire),
    format("subject", decoders::subject),
    format("record", decoders::record),
    format("border", decoders::border),
    format("frame", decoders::frame),
    format("snapshot", decoders::snapshot),
    format("config", decoders::config),
    format("control", decoders::control),
    structured("cabinet", cabinet::run),
    structured("replicas", replicas::run),
];

const fn format(name: &'static str, run: fn(&[u8])) -> Target {
    Target {
        name,
        structured: false,
        run,
    }
}

const fn structured(name: &'static str, run: fn(&[u8])) -> Target {
    Target {
        name,
        structured: true,
        run,
    }
}

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

pub use seeds::{PACK_NAME, corpus_dir, pack, seeds};

/// How the `wire` target names a message in its first byte, and the `border` target a subject, so
/// that inputs can be made of fixtures.
pub use decoders::{border_first_byte, wire_first_byte};
