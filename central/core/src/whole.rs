//! Whether the ledger that a server shows is the one that a replica served before. A server that comes
//! up without its disk shows an empty world, or another one; central answers from neither.
//!
//! A ledger is named by the id of its first frame, which is drawn at random when the ledger is made. A
//! replica keeps a [`Marker`] elsewhere than the ledger, and looks again as long as the two disagree.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    frame::{Basis, Decoded, Digest, Frame},
    state::Alarm,
};

/// Which ledger: the id of its first frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LedgerId(pub Uuid);

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for LedgerId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl LedgerId {
    /// Of a ledger whose first message this is; none where it is no frame.
    #[must_use]
    pub fn of_first(bytes: &[u8]) -> Option<Self> {
        match Frame::decode(bytes) {
            Ok(Decoded::Frame(frame)) => Some(Self(frame.id)),
            Ok(Decoded::Junk) | Err(_) => None,
        }
    }
}

/// What a replica keeps of the ledger that it served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// Which ledger.
    pub ledger: LedgerId,
    /// The highest sequence that was applied when this was written.
    pub seq: u64,
    /// The digest there.
    #[serde(with = "hex")]
    pub digest: Digest,
    /// The newest decision of an operator's to give something up that was known when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given_up: Option<Uuid>,
}

impl Marker {
    /// Whether it still counts beside a ledger on which `given_up` is written: whoever restored a backup
    /// or began anew has said what is given up, which counts for every replica that has not seen it yet.
    #[must_use]
    pub fn counts(&self, given_up: Option<Uuid>) -> bool {
        given_up.is_none() || self.given_up == given_up
    }

    /// What had been applied.
    #[must_use]
    pub const fn basis(&self) -> Basis {
        Basis {
            seq: self.seq,
            digest: self.digest,
        }
    }
}

mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::frame::Digest;

    pub(super) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{:032x}", u128::from_be_bytes(digest.0)))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(from)?;
        u128::from_str_radix(&text, 16)
            .map(|number| Digest(number.to_be_bytes()))
            .map_err(D::Error::custom)
    }
}

/// What a server shows of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// There is no such stream.
    Absent,
    /// The stream has never had a message.
    Empty,
    /// Messages are gone from it.
    Holed {
        /// How many.
        removed: u64,
    },
    /// It begins with something that is no frame.
    Nameless,
    /// A ledger.
    Ledger {
        /// Which.
        id: LedgerId,
        /// Its last sequence.
        last: u64,
        /// The operator's decision that is written on the stream.
        given_up: Option<Uuid>,
    },
}

/// All that speaks for or against the ledger that a server shows.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// The server's word.
    pub shown: Shown,
    /// What this replica served before.
    pub marker: Option<Marker>,
    /// Other streams that the server has. All are made after the ledger.
    pub others: Vec<&'static str>,
    /// The newest snapshot: of which ledger, and at which sequence.
    pub snapshot: Option<(LedgerId, u64)>,
    /// Whether this replica may make the first ledger of an installation.
    pub may_begin: bool,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the ledger to serve, and this is to be kept of it.
    Serve {
        /// The marker from here on.
        marker: Marker,
        /// Whether the newest snapshot is of this ledger.
        snapshot: bool,
    },
    /// Nothing speaks of an earlier ledger: the first one may be made.
    Begin,
    /// No answers; look again.
    Stop(Alarm),
}

impl Evidence {
    /// Judges what was seen.
    #[must_use]
    pub fn judge(&self) -> Verdict {
        let (id, last, given_up) = match self.shown {
            Shown::Absent | Shown::Empty => {
                let none_before = self.marker.is_none() && self.others.is_empty();
                return if none_before && self.may_begin {
                    Verdict::Begin
                } else {
                    Verdict::Stop(self.missing())
                };
            }
            Shown::Holed { removed } => return Verdict::Stop(Alarm::Removed { removed }),
            Shown::Nameless => return Verdict::Stop(Alarm::Nameless),
            Shown::Ledger { id, last, given_up } => (id, last, given_up),
        };
        let snapshot = self.snapshot.is_some_and(|(of, _)| of == id);
        let known = self.marker.filter(|marker| marker.counts(given_up));
        if let Some(marker) = known {
            if marker.ledger != id {
                return Verdict::Stop(Alarm::Foreign {
                    found: id,
                    served: marker.ledger,
                });
            }
            if last < marker.seq {
                return Verdict::Stop(Alarm::Rewound {
                    last,
                    applied: marker.seq,
                });
            }
        }
        match self.snapshot {
            Some((of, _)) if of != id && given_up.is_none() => {
                return Verdict::Stop(Alarm::Foreign {
                    found: id,
                    served: of,
                });
            }
            Some((of, at)) if of == id && at > last => {
                return Verdict::Stop(Alarm::Rewound { last, applied: at });
            }
            Some(_) | None => {}
        }
        let marker = known.unwrap_or(Marker {
            ledger: id,
            seq: 0,
            digest: Digest::default(),
            given_up,
        });
        Verdict::Serve { marker, snapshot }
    }

    /// What says that there was a ledger, where there is none.
    #[must_use]
    pub fn missing(&self) -> Alarm {
        Alarm::Missing {
            served: self.marker.map(|marker| (marker.ledger, marker.seq)),
            others: self.others.clone(),
        }
    }
}

/// An answer that the stream ends below what is applied may come from a deposed leader, which can
/// answer for 20 s. Only when it stays is it the truth.
const BEHIND_MS_MAX: u64 = 30_000;
/// Longest time between two looks at a stream that is behind: a process that stood still has not seen
/// it stay.
const BEHIND_GAP_MS_MAX: u64 = 15_000;
/// Looks one after the other that find no stream. The second one excludes a server that was just
/// starting.
const ABSENT_LOOKS: u32 = 2;

/// One look at the ledger's stream while it is served. The word of one server, which may be old: what
/// can be true for a moment only has to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The server says that there is no such stream.
    Absent,
    /// The stream.
    There {
        /// Its last sequence.
        last: u64,
        /// Messages up to there that are gone.
        removed: u64,
        /// Whether it is the stream that was there when this replica began. A stream keeps its time of
        /// creation.
        same: bool,
    },
}

/// Looks at the ledger's stream while it is served.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    absent: u32,
    /// Since when, and when last, the stream was behind, on the monotonic clock.
    behind: Option<(u64, u64)>,
}

impl Watch {
    /// Whether the last look was a reason to look again at once.
    #[must_use]
    pub const fn doubts(&self) -> bool {
        self.absent > 0
    }

    /// What a look at `now_ms` of the monotonic clock says, with `basis` of `ledger` applied.
    ///
    /// # Errors
    /// The alarm.
    pub fn look(
        &mut self,
        look: Look,
        ledger: Option<LedgerId>,
        basis: Basis,
        now_ms: u64,
    ) -> Result<(), Alarm> {
        let Look::There {
            last,
            removed,
            same,
        } = look
        else {
            self.absent += 1;
            if self.absent < ABSENT_LOOKS {
                return Ok(());
            }
            return Err(Alarm::Missing {
                served: ledger.map(|ledger| (ledger, basis.seq)),
                others: Vec::new(),
            });
        };
        self.absent = 0;
        if removed > 0 {
            return Err(Alarm::Removed { removed });
        }
        let applied = basis.seq;
        if last >= applied {
            self.behind = None;
            return Ok(());
        }
        let since = match self.behind {
            Some((since, before)) if now_ms.saturating_sub(before) <= BEHIND_GAP_MS_MAX => since,
            Some(_) | None => now_ms,
        };
        self.behind = Some((since, now_ms));
        // No leader of the old stream speaks of a new one.
        if !same || now_ms.saturating_sub(since) > BEHIND_MS_MAX {
            return Err(Alarm::Rewound { last, applied });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: LedgerId = LedgerId(Uuid::from_u128(0xa));
    const B: LedgerId = LedgerId(Uuid::from_u128(0xb));
    const DECISION: Uuid = Uuid::from_u128(0xd);

    fn marker(ledger: LedgerId, seq: u64) -> Marker {
        Marker {
            ledger,
            seq,
            digest: Digest([7; 16]),
            given_up: None,
        }
    }

    fn ledger(id: LedgerId, last: u64) -> Shown {
        Shown::Ledger {
            id,
            last,
            given_up: None,
        }
    }

    fn seen(shown: Shown, marker: Option<Marker>) -> Evidence {
        Evidence {
            shown,
            marker,
            others: Vec::new(),
            snapshot: None,
            may_begin: true,
        }
    }

    #[test]
    fn only_a_world_that_nothing_speaks_of_is_begun_and_only_by_who_may() {
        for shown in [Shown::Absent, Shown::Empty] {
            let first = seen(shown, None);
            assert_eq!(first.judge(), Verdict::Begin);
            let later = [
                Evidence {
                    may_begin: false,
                    ..first.clone()
                },
                Evidence {
                    marker: Some(marker(A, 0)),
                    ..first.clone()
                },
                Evidence {
                    others: vec!["EV_CDR"],
                    ..first.clone()
                },
            ];
            for evidence in later {
                let verdict = evidence.judge();
                assert!(
                    matches!(verdict, Verdict::Stop(Alarm::Missing { .. })),
                    "{evidence:?}: {verdict:?}"
                );
            }
        }
        // What came up first is no ledger of anybody's.
        let nameless = seen(Shown::Nameless, None).judge();
        assert_eq!(nameless, Verdict::Stop(Alarm::Nameless));
    }

    #[test]
    fn a_replica_that_served_none_takes_the_ledger_that_is_there() {
        let verdict = seen(ledger(A, 5), None).judge();
        let Verdict::Serve { marker, snapshot } = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!((marker.ledger, marker.seq), (A, 0));
        assert!(!snapshot);
    }

    #[test]
    fn a_replica_serves_what_it_served_and_what_came_after() {
        for last in [5, 6] {
            let verdict = seen(ledger(A, last), Some(marker(A, 5))).judge();
            let kept = marker(A, 5);
            assert_eq!(
                verdict,
                Verdict::Serve {
                    marker: kept,
                    snapshot: false
                }
            );
        }
    }

    #[test]
    fn another_ledger_and_a_shorter_one_are_not_served() {
        let other = seen(ledger(B, 9), Some(marker(A, 5))).judge();
        assert_eq!(
            other,
            Verdict::Stop(Alarm::Foreign {
                found: B,
                served: A
            })
        );
        let shorter = seen(ledger(A, 4), Some(marker(A, 5))).judge();
        assert_eq!(
            shorter,
            Verdict::Stop(Alarm::Rewound {
                last: 4,
                applied: 5
            })
        );
        assert_eq!(
            seen(Shown::Holed { removed: 1 }, Some(marker(A, 5))).judge(),
            Verdict::Stop(Alarm::Removed { removed: 1 })
        );
    }

    #[test]
    fn snapshots_are_witnesses_too() {
        let with = |id, at| Evidence {
            snapshot: Some((id, at)),
            ..seen(ledger(A, 5), None)
        };
        assert!(matches!(
            with(A, 5).judge(),
            Verdict::Serve { snapshot: true, .. }
        ));
        assert_eq!(
            with(A, 6).judge(),
            Verdict::Stop(Alarm::Rewound {
                last: 5,
                applied: 6
            })
        );
        assert_eq!(
            with(B, 3).judge(),
            Verdict::Stop(Alarm::Foreign {
                found: A,
                served: B
            })
        );
    }

    #[test]
    fn what_an_operator_gave_up_counts_once_for_every_replica() {
        let restored = |id, last| Shown::Ledger {
            id,
            last,
            given_up: Some(DECISION),
        };
        for shown in [restored(A, 3), restored(B, 1)] {
            let evidence = Evidence {
                snapshot: Some((A, 3)),
                ..seen(shown, Some(marker(A, 5)))
            };
            let verdict = evidence.judge();
            let Verdict::Serve { marker, .. } = verdict else {
                panic!("{verdict:?}");
            };
            assert_eq!((marker.seq, marker.given_up), (0, Some(DECISION)));
        }
        // From there on the marker counts again.
        let after = Marker {
            given_up: Some(DECISION),
            ..marker(A, 5)
        };
        assert!(matches!(
            seen(restored(A, 4), Some(after)).judge(),
            Verdict::Stop(Alarm::Rewound { .. })
        ));
        // A disk from before the decision is none that was decided for.
        assert!(matches!(
            seen(ledger(B, 9), Some(after)).judge(),
            Verdict::Stop(Alarm::Foreign { .. })
        ));
    }

    #[test]
    fn a_marker_survives_being_written() {
        for kept in [
            marker(A, 5),
            Marker {
                digest: Digest([0; 16]),
                given_up: Some(DECISION),
                ..marker(B, u64::MAX)
            },
        ] {
            let bytes = rmp_serde::to_vec_named(&kept).unwrap();
            assert_eq!(rmp_serde::from_slice::<Marker>(&bytes).unwrap(), kept);
        }
    }

    fn applied(seq: u64) -> Basis {
        Basis {
            seq,
            digest: Digest([7; 16]),
        }
    }

    fn there(last: u64) -> Look {
        Look::There {
            last,
            removed: 0,
            same: true,
        }
    }

    #[test]
    fn a_stream_that_is_gone_twice_is_an_alarm_without_any_question() {
        let mut watch = Watch::default();
        assert_eq!(watch.look(Look::Absent, Some(A), applied(9), 0), Ok(()));
        assert!(watch.doubts());
        assert_eq!(watch.look(there(9), Some(A), applied(9), 1_000), Ok(()));
        assert!(!watch.doubts());
        assert_eq!(watch.look(Look::Absent, Some(A), applied(9), 2_000), Ok(()));
        assert_eq!(
            watch.look(Look::Absent, Some(A), applied(9), 3_000),
            Err(Alarm::Missing {
                served: Some((A, 9)),
                others: Vec::new()
            })
        );
    }

    #[test]
    fn a_stream_that_ends_too_early_has_to_stay_so_unless_it_is_another_one() {
        let rewound = Err(Alarm::Rewound {
            last: 8,
            applied: 9,
        });
        let mut watch = Watch::default();
        for now_ms in [0, 10_000, 20_000, 30_000] {
            assert_eq!(watch.look(there(8), Some(A), applied(9), now_ms), Ok(()));
        }
        assert_eq!(watch.look(there(8), Some(A), applied(9), 30_001), rewound);
        // Whoever stood still has not seen it stay.
        let mut frozen = Watch::default();
        assert_eq!(frozen.look(there(8), Some(A), applied(9), 0), Ok(()));
        assert_eq!(frozen.look(there(8), Some(A), applied(9), 60_000), Ok(()));
        // In between it was right.
        let mut fickle = Watch::default();
        assert_eq!(fickle.look(there(8), Some(A), applied(9), 20_000), Ok(()));
        assert_eq!(fickle.look(there(9), Some(A), applied(9), 30_000), Ok(()));
        assert_eq!(fickle.look(there(8), Some(A), applied(9), 40_000), Ok(()));
        assert_eq!(fickle.look(there(8), Some(A), applied(9), 51_000), Ok(()));
        let anew = Look::There {
            last: 8,
            removed: 0,
            same: false,
        };
        assert_eq!(Watch::default().look(anew, Some(A), applied(9), 0), rewound);
        let holed = Look::There {
            last: 9,
            removed: 2,
            same: true,
        };
        assert_eq!(
            Watch::default().look(holed, Some(A), applied(9), 0),
            Err(Alarm::Removed { removed: 2 })
        );
    }
}
