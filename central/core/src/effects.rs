//! What is to be done because the state is what it is. Derived from the state, never from records:
//! a replica that has just started finds the same work as one that saw it arise.

use ev_contract::{
    connector::Service,
    ids::{BootId, CommandId, ConnectorId, CpId},
    time::UnixMs,
    v1::{EndCode, EndReason, EndSource, ServiceCommand, StartCommand, StopCommand},
    wire::Tag,
};

use crate::{
    model::{Connector, Session, Stage},
    state::State,
};

/// A command that a charge point should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Take a session.
    Start(StartCommand),
    /// End a session.
    Stop(StopCommand),
}

/// Whether an open session waits for a command.
#[must_use]
pub const fn has_order(session: &Session) -> bool {
    match session.stage {
        Stage::Ended { .. } => false,
        Stage::Ordered => true,
        Stage::Taken { .. } | Stage::Energy { .. } | Stage::Standing { .. } => {
            session.stop.is_some()
        }
    }
}

/// The start of a charge point's agent that commands are addressed to. It is looked up for each
/// attempt: after a restart the next one reaches the new process.
#[must_use]
pub fn boot(state: &State, cp: &CpId) -> Option<BootId> {
    state.charge_point(cp).map(|e| e.value.boot.id)
}

/// The command that an open session waits for, written for an attempt at `now`.
#[must_use]
pub fn order(session: &Session, boot: BootId, now: UnixMs) -> Option<Order> {
    if session.is_ended() {
        return None;
    }
    if let Some(stop) = &session.stop {
        return Some(Order::Stop(StopCommand {
            tag: Tag::new(),
            to: session.cp.clone(),
            boot,
            command_id: CommandId::stop(session.id),
            session_id: session.id,
            reason: stop.reason.clone(),
            ts: now,
        }));
    }
    match session.stage {
        Stage::Ordered => Some(Order::Start(StartCommand {
            tag: Tag::new(),
            to: session.cp.clone(),
            boot,
            command_id: CommandId::start(session.id),
            session_id: session.id,
            connector: session.connector,
            driver_id: session.driver.clone(),
            epoch: session.epoch.clone(),
            expires_at: session.start_by,
            limits: session.limits,
            idle_s_max: session.idle_s_max,
            plug_wait_s: session.plug_wait_s,
            ts: now,
        })),
        Stage::Taken { .. }
        | Stage::Energy { .. }
        | Stage::Standing { .. }
        | Stage::Ended { .. } => None,
    }
}

/// The stop of a session that was written off, until the charge point confirms it.
#[must_use]
pub fn standing_stop(session: &Session, boot: BootId, now: UnixMs) -> StopCommand {
    StopCommand {
        tag: Tag::new(),
        to: session.cp.clone(),
        boot,
        command_id: CommandId::stop(session.id),
        session_id: session.id,
        reason: session.stop.as_ref().map_or(
            EndReason::new(EndCode::Operator, EndSource::Operator),
            |stop| stop.reason.clone(),
        ),
        ts: now,
    }
}

/// Whether a connector has yet to hear whether it serves.
#[must_use]
pub fn has_service_order(connector: &Connector) -> bool {
    let obeyed = connector
        .reported
        .as_ref()
        .map_or(0, |r| r.service_revision);
    obeyed < connector.service_revision
}

/// The command that tells a connector whether to serve, until its reports say that it obeys.
#[must_use]
pub fn service_order(
    cp: &CpId,
    id: ConnectorId,
    connector: &Connector,
    boot: BootId,
    now: UnixMs,
) -> Option<ServiceCommand> {
    if !has_service_order(connector) {
        return None;
    }
    Some(ServiceCommand {
        tag: Tag::new(),
        to: cp.clone(),
        boot,
        command_id: CommandId::new(format!("service-{id}-{}", connector.service_revision)).ok()?,
        connector: id,
        service: match connector.service {
            Service::In => Service::In,
            Service::Out | Service::OutAfterSession | Service::Unrecognised => Service::Out,
        },
        revision: connector.service_revision,
        ts: now,
    })
}
