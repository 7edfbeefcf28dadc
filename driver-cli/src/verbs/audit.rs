//! `op audit`

use ev_contract::{
    time::UnixMs,
    v1::{AuditRequest, AuditRow},
    wire::{CENTRAL, Tag},
};

use super::{Ctx, newer::Newer};
use crate::{
    args::AuditArgs,
    desk::{Desk, wall_now},
    doc::{AuditDoc, AuditEntryDoc},
    exit::Exit,
    failure::Failure,
    render::table,
};

/// Most pages that are walked back. With a filter a page looks at a thousand entries: a million.
const PAGES_MAX: usize = 1_000;

pub(super) async fn audit(ctx: &Ctx, args: AuditArgs) -> Result<Exit, Failure> {
    let desk = ctx.operator_desk().await?;
    let since = args.since.map(|ago| {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        UnixMs(wall_now().0.saturating_sub(ago))
    });
    let request = AuditRequest {
        tag: Tag::new(),
        to: CENTRAL.to_owned(),
        after: None,
        before: None,
        since,
        who: args.who,
        verb: args.verb,
        rows: None,
    };
    let (rows, ts, last) = ctx.query(last_ones(&desk, &request, args.limit)).await?;
    if !args.follow {
        if rows.is_empty() && !ctx.output.is_json() {
            ctx.output.message("there are no such entries");
            return Ok(Exit::Ok);
        }
        ctx.output
            .data(&AuditDoc::new(&rows, ts), || table::audit(&rows))?;
        return Ok(Exit::Ok);
    }
    show(ctx, &rows)?;
    follow(ctx, &desk, request, last).await
}

/// The last entries that fit, oldest first; central's time, and how far they were looked at.
async fn last_ones(
    desk: &Desk,
    request: &AuditRequest,
    limit: u32,
) -> Result<(Vec<AuditRow>, UnixMs, u64), Failure> {
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut request = request.clone();
    let mut pages: Vec<Vec<AuditRow>> = Vec::new();
    let mut found = 0;
    let mut newest = None;
    loop {
        request.rows = u32::try_from(wanted - found).ok();
        let page = desk.audit_page(&request).await?;
        let (ts, last) = *newest.get_or_insert((page.ts, page.last_seq));
        found += page.entries.len();
        pages.push(page.entries);
        let moves = request.before.is_none_or(|before| page.first_seq < before);
        if found >= wanted || !page.more || !moves || pages.len() >= PAGES_MAX {
            let rows = pages.into_iter().rev().flatten().collect();
            return Ok((rows, ts, last));
        }
        request.before = Some(page.first_seq);
    }
}

async fn follow(
    ctx: &Ctx,
    desk: &Desk,
    mut request: AuditRequest,
    mut last: u64,
) -> Result<Exit, Failure> {
    let mut newer = Newer::default();
    loop {
        request.after = Some(last);
        if let Some(page) = newer.page(ctx, desk.audit_page(&request)).await? {
            show(ctx, &page.entries)?;
            let moved = page.last_seq > last;
            last = last.max(page.last_seq);
            if page.more && moved {
                continue;
            }
        }
        newer.pause(ctx).await?;
    }
}

fn show(ctx: &Ctx, rows: &[AuditRow]) -> Result<(), Failure> {
    for row in rows {
        ctx.output
            .data(&AuditEntryDoc::from(row), || table::audit_line(row))?;
    }
    Ok(())
}
