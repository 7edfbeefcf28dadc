//! Times that were written down before central's was known, mended once it is.
//!
//! Without central the host's own clock is used, and every moment of this process under it is off by
//! the same amount. When that amount becomes known, or the host's clock is set, what this process
//! still holds and what still waits in the spool is moved by it. What was sent keeps its content:
//! central may have it.

use ev_contract::{
    time::UnixMs,
    v1::{EdgeRecord, Reading, TimeQuality},
};
use serde::{Deserialize, Serialize};

/// A correction of records that wait in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mend {
    /// The first record.
    pub from: u64,
    /// The number after the last one.
    pub until: u64,
    /// What it does to their times.
    pub shift: Shift,
}

impl Mend {
    /// Corrects a record, if it is one of them.
    pub fn apply(&self, record: &mut EdgeRecord) {
        if (self.from..self.until).contains(&record.seq) {
            self.shift.moment(&mut record.at, &mut record.quality);
            if let Some(reading) = record.fact.reading_mut() {
                self.shift.reading(reading);
            }
        }
    }
}

/// Moves what was dated by the host's own clock within one process. What lies outside of that time
/// was dated by the clock of an earlier process, of which nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// The first moment.
    pub since: UnixMs,
    /// The last one.
    pub to: UnixMs,
    /// By so much.
    pub by_ms: i64,
    /// To central's time, not only to another time of the host.
    pub sure: bool,
}

impl Shift {
    /// Moves a reading; says whether it did.
    pub fn reading(&self, reading: &mut Reading) -> bool {
        self.moment(&mut reading.at, &mut reading.quality)
    }

    fn moment(&self, at: &mut UnixMs, quality: &mut TimeQuality) -> bool {
        if *quality == TimeQuality::Synced || !(self.since..=self.to).contains(at) {
            return false;
        }
        *at = at.plus_ms(self.by_ms);
        if self.sure {
            *quality = TimeQuality::Synced;
        }
        true
    }
}
