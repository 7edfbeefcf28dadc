//! What users are promised, tried on the core alone: a ledger in memory, replicas that lag, frames
//! that come twice, late and out of turn.
//!
//! - [`harness`]: the ledger, the replicas, charge points and their spools
//! - [`requests`], [`stops`], [`operators`]: what is asked, and how it is answered
//! - [`spools`], [`metering`], [`late`]: what charge points say
//! - [`money`]: what fees are for, and which price applies when
//! - [`twins`]: two agents with one identity
//! - [`enrolments`]: charge points that central knows before they connect
//! - [`overdue`]: sessions that have been in a phase for too long
//! - [`ledger`]: validity, duplicates, forgetting, the audit, snapshots
//! - [`verify`]: what `central verify` finds
//! - [`insight`]: what operators are told of why
//! - [`history`]: random histories against the promises

#[cfg(test)]
mod enrolments;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod insight;
#[cfg(test)]
mod late;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod metering;
#[cfg(test)]
mod money;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod overdue;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod spools;
#[cfg(test)]
mod stops;
#[cfg(test)]
mod twins;
#[cfg(test)]
mod verify;
