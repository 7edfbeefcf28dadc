//! `op events`

use std::collections::HashMap;

use ev_contract::{
    ids::CpId,
    time::UnixMs,
    v1::{EventKind, EventRow, EventsReply, EventsRequest},
    wire::{CENTRAL, Tag},
};

use super::{Ctx, newer::Newer, op};
use crate::{
    args::EventsArgs,
    desk::{Desk, wall_now},
    doc::{EventsDoc, HappenedDoc, Time},
    exit::Exit,
    failure::Failure,
    render::table,
};

/// Most pages of one walk: a replica remembers 50,000 events, 200 a page.
const PAGES_MAX: usize = 400;
/// How far back changes of reach are asked for again, since replicas notice them at different times.
const REACH_OVERLAP_MS: i64 = 90_000;

/// What was shown of reach, so that two replicas that notice the same are one event.
#[derive(Debug, Default)]
pub(crate) struct Reaches {
    reach: HashMap<CpId, (EventKind, UnixMs)>,
}

impl Reaches {
    pub(crate) fn is_new(&mut self, event: &EventRow) -> bool {
        let (EventKind::Offline | EventKind::Online, Some(cp)) = (event.kind, &event.cp_id) else {
            return true;
        };
        let new = match self.reach.get(cp) {
            Some((kind, at)) => *kind != event.kind && event.at >= *at,
            None => true,
        };
        if new {
            self.reach.insert(cp.clone(), (event.kind, event.at));
        }
        new
    }
}

pub(super) async fn events(ctx: &Ctx, args: EventsArgs) -> Result<Exit, Failure> {
    let desk = ctx.operator_desk().await?;
    let session_id = match &args.session {
        Some(text) => Some(ctx.query(desk.resolve(text)).await?.to_string()),
        None => None,
    };
    let back = i64::try_from(args.since.as_millis()).unwrap_or(i64::MAX);
    let since = UnixMs(wall_now().0.saturating_sub(back));
    let mut request = EventsRequest {
        tag: Tag::new(),
        to: CENTRAL.to_owned(),
        after: None,
        since: Some(since),
        cp_id: args.cp.clone(),
        session_id,
        rows: None,
    };
    let mut shown = Reaches::default();
    let mut found = Vec::new();
    let mut asked = 0;
    let (last, forgotten) = loop {
        let page = ctx.query(desk.events_page(&request)).await?;
        asked += 1;
        let forgotten = op::forgotten(since, page.remembers_from);
        request.after = Some(page.next.clone());
        request.since = Some(UnixMs(page.ts.0 - REACH_OVERLAP_MS));
        let more = page.more && asked < PAGES_MAX;
        found.extend(wanted(&args, &mut shown, &page));
        if !more {
            break (page, forgotten);
        }
    };
    found.sort_by_key(|event| event.at);
    if let Some(cp) = args.cp.as_deref().filter(|_| found.is_empty()) {
        // A slip of the pen is not a quiet night.
        op::known(ctx, &desk, cp).await?;
    }
    if let Some(from) = forgotten {
        ctx.output.message(&from);
    }
    if last.listens_from > since {
        ctx.output.message(&format!(
            "who was out of reach is known since {}, when this central began",
            Time(last.listens_from)
        ));
    }
    if !args.follow {
        if found.is_empty() && !ctx.output.is_json() {
            ctx.output.message("nothing of that kind has happened");
            return Ok(Exit::Ok);
        }
        ctx.output
            .data(&EventsDoc::new(&found, last.ts), || table::events(&found))?;
        return Ok(Exit::Ok);
    }
    show(ctx, &found)?;
    follow(ctx, &desk, &args, request, shown).await
}

fn wanted(args: &EventsArgs, shown: &mut Reaches, page: &EventsReply) -> Vec<EventRow> {
    page.events
        .iter()
        .filter(|event| shown.is_new(event) && args.kinds(event.kind))
        .cloned()
        .collect()
}

async fn follow(
    ctx: &Ctx,
    desk: &Desk,
    args: &EventsArgs,
    mut request: EventsRequest,
    mut shown: Reaches,
) -> Result<Exit, Failure> {
    let mut newer = Newer::default();
    loop {
        if let Some(page) = newer.page(ctx, desk.events_page(&request)).await? {
            show(ctx, &wanted(args, &mut shown, &page))?;
            request.after = Some(page.next.clone());
            request.since = Some(UnixMs(page.ts.0 - REACH_OVERLAP_MS));
            if page.more {
                continue;
            }
        }
        newer.pause(ctx).await?;
    }
}

fn show(ctx: &Ctx, events: &[EventRow]) -> Result<(), Failure> {
    for event in events {
        ctx.output
            .data(&HappenedDoc::from(event), || table::event_line(event))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(kind: EventKind, at: i64) -> EventRow {
        EventRow {
            at: UnixMs(at),
            kind,
            pos: None,
            cp_id: Some("CP-001".parse().unwrap()),
            connector: None,
            session_id: None,
            driver_id: None,
            operator_id: None,
            code: None,
            detail: None,
        }
    }

    #[test]
    fn what_two_replicas_noticed_is_one_event() {
        let mut shown = Reaches::default();
        let told: Vec<_> = [
            reach(EventKind::Offline, 10),
            reach(EventKind::Offline, 11),
            reach(EventKind::Online, 60),
            reach(EventKind::Offline, 10),
            reach(EventKind::Online, 61),
            reach(EventKind::Offline, 90),
        ]
        .iter()
        .filter(|event| shown.is_new(event))
        .map(|event| (event.kind, event.at.0))
        .collect();
        let expected = [
            (EventKind::Offline, 10),
            (EventKind::Online, 60),
            (EventKind::Offline, 90),
        ];
        assert_eq!(told, expected);
    }
}
