//! `op export`

use std::{
    collections::HashMap,
    io::{self, BufWriter, StdoutLock, Write},
    time::Duration,
};

use ev_contract::{
    ids::CpId,
    time::UnixMs,
    v1::{Receipt, ReceiptReply, ReceiptsRequest, UptimeRequest},
    wire::{CENTRAL, Tag},
};
use serde::Serialize;

use super::Ctx;
use crate::{
    args::{ExportArgs, Format, What},
    desk::{Desk, wall_now},
    doc::{ReceiptDoc, Time},
    exit::Exit,
    failure::Failure,
    report::{
        csv_row::cells,
        month::Calendar,
        rows::{self, ADJUSTMENTS_MAX, Adjustments, Energy, ReceiptRow, SessionRow},
        uptime::{UPTIME_NAMES, Uptime, minute},
    },
};

/// What clocks of servers and cabinets may differ: a receipt that was kept so long before its session
/// ended by its own time is still found.
const CLOCKS_MS: i64 = 24 * 3_600_000;
/// A replica gives a full account of connectors at least so often.
const FULL_EVERY_MS: i64 = 25 * 3_600_000;
/// Pages without anything in them, before a walk gives up: a server that lags catches up sooner.
const EMPTY_MAX: u32 = 50;
/// Before such a page is asked for again.
const AGAIN: Duration = Duration::from_millis(200);

pub(super) async fn export(ctx: &Ctx, args: ExportArgs) -> Result<Exit, Failure> {
    let desk = ctx.operator_desk().await?;
    let (begin, end) = args.month.anywhere();
    let now = wall_now();
    if begin > now {
        return Err(Failure::usage(
            format!("{} has not begun", args.month),
            "name a month that has",
        ));
    }
    if end > now {
        ctx.output.message(&format!(
            "{} is not over: this is what there is so far",
            args.month
        ));
    }
    let mut walk = Walk::new(&desk, &args);
    let adjustments = match args.what {
        What::Uptime => Adjustments::new(),
        What::Sessions | What::Receipts | What::Energy => ctx.query(walk.adjustments()).await?,
    };
    let format = if ctx.output.is_json() {
        Format::Json
    } else {
        args.format
    };
    let mut sheet = Sheet::new(format, &args);
    ctx.query(async {
        match args.what {
            What::Sessions => {
                while let Some(page) = walk.receipts().await? {
                    for r in &page {
                        sheet.row(&SessionRow::new(
                            r,
                            rows::of(&adjustments, r),
                            walk.calendar,
                        ))?;
                    }
                }
            }
            What::Receipts => {
                while let Some(page) = walk.receipts().await? {
                    for r in page {
                        let added = rows::of(&adjustments, &r);
                        match format {
                            Format::Csv => sheet.row(&ReceiptRow::new(&r, added, walk.calendar))?,
                            Format::Json => sheet.row(&ReceiptDoc::from(&ReceiptReply {
                                tag: Tag::new(),
                                to: String::new(),
                                adjustments: added.to_vec(),
                                receipt: r,
                                ts: walk.ts,
                            }))?,
                        }
                    }
                }
            }
            What::Energy => {
                let mut energy = Energy::default();
                while let Some(page) = walk.receipts().await? {
                    for r in &page {
                        energy.add(r, rows::of(&adjustments, r));
                    }
                }
                for row in energy.rows(&args.month.to_string()) {
                    sheet.row(&row)?;
                }
            }
            What::Uptime => {
                for row in walk.uptime().await? {
                    sheet.row(&row)?;
                }
            }
        }
        Ok(())
    })
    .await
    .inspect_err(|_| {
        ctx.output
            .message("the export ends here and is not complete")
    })?;
    sheet.end(&walk)?;
    if walk.strange > 0 {
        ctx.output.message(&format!(
            "{} entries of the receipts are none and were passed over: see central's log",
            walk.strange
        ));
    }
    if walk.not_kept > 0 {
        ctx.output.message(&format!(
            "{} entries that belong here are not kept yet: repeat this in a minute",
            walk.not_kept
        ));
        return Ok(Exit::Unknown);
    }
    Ok(if walk.strange > 0 {
        Exit::Other
    } else {
        Exit::Ok
    })
}

/// A walk through what is kept.
struct Walk<'a> {
    desk: &'a Desk,
    args: &'a ExportArgs,
    calendar: Calendar,
    request: ReceiptsRequest,
    over: bool,
    empty: u32,
    not_kept: u64,
    strange: u64,
    ts: UnixMs,
}

impl<'a> Walk<'a> {
    fn new(desk: &'a Desk, args: &'a ExportArgs) -> Self {
        let (from, until) = args.month.anywhere();
        Self {
            desk,
            args,
            calendar: if args.utc {
                Calendar::Utc
            } else {
                Calendar::Sites
            },
            request: ReceiptsRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                adjustments: false,
                after: None,
                kept_from: (!args.from_the_first).then(|| from.plus_ms(-CLOCKS_MS)),
                from: Some(from),
                until: Some(until),
                site_id: args.site.clone(),
                rows: None,
            },
            over: false,
            empty: 0,
            not_kept: 0,
            strange: 0,
            ts: UnixMs(0),
        }
    }

    /// The next page of receipts of the month; nothing at the end.
    async fn receipts(&mut self) -> Result<Option<Vec<Receipt>>, Failure> {
        if self.over {
            return Ok(None);
        }
        let mut page = self.desk.receipts_page(&self.request).await?;
        let moved = self.request.after.is_none_or(|after| page.last_seq > after);
        self.request.after = Some(page.last_seq);
        self.ts = page.ts;
        self.strange += page.strange;
        if page.more && !moved {
            self.pause().await?;
        } else {
            self.empty = 0;
        }
        if !page.more {
            self.over = true;
            self.not_kept += page.not_kept;
        }
        let (month, calendar) = (self.args.month, self.calendar);
        page.receipts
            .retain(|r| month.has(r.filed_at(), &calendar.zone(&r.time_zone)));
        Ok(Some(page.receipts))
    }

    async fn pause(&mut self) -> Result<(), Failure> {
        self.empty += 1;
        if self.empty > EMPTY_MAX {
            return Err(Failure::Other {
                message: "what is kept does not come to an end".to_owned(),
                hint: "a server may lag behind the others: try again".to_owned(),
            });
        }
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }

    /// Adjustments are kept after their receipt, and so are all of those that are wanted here.
    async fn adjustments(&mut self) -> Result<Adjustments, Failure> {
        let mut all = Adjustments::new();
        let mut count = 0;
        let mut request = ReceiptsRequest {
            adjustments: true,
            ..self.request.clone()
        };
        loop {
            let page = self.desk.receipts_page(&request).await?;
            let moved = request.after.is_none_or(|after| page.last_seq > after);
            request.after = Some(page.last_seq);
            self.strange += page.strange;
            count += page.adjustments.len();
            if count > ADJUSTMENTS_MAX {
                return Err(Failure::Other {
                    message: format!("there are more than {ADJUSTMENTS_MAX} adjustments"),
                    hint: "this program holds no more of them".to_owned(),
                });
            }
            for adjustment in page.adjustments {
                all.entry(adjustment.session_id)
                    .or_default()
                    .push(adjustment);
            }
            if !page.more {
                self.not_kept += page.not_kept;
                break;
            }
            if !moved {
                self.pause().await?;
            }
        }
        for list in all.values_mut() {
            list.sort_by_key(|a| a.n);
        }
        Ok(all)
    }

    /// The minutes of every connector.
    async fn uptime(&mut self) -> Result<Vec<crate::report::uptime::UptimeRow>, Failure> {
        let (views, now) = self.desk.cp_ls(None).await?;
        let zones: HashMap<CpId, String> = views
            .into_iter()
            .map(|view| (view.cp_id, view.time_zone))
            .collect();
        let (from, until) = self.args.month.anywhere();
        let mut uptime = Uptime::new(minute(from), minute(until));
        let mut request = UptimeRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            after: None,
            kept_from: Some(from.plus_ms(-FULL_EVERY_MS)),
            rows: None,
        };
        loop {
            let page = self.desk.uptime_page(&request).await?;
            let moved = request.after.is_none_or(|after| page.last_seq > after);
            let past = page
                .records
                .first()
                .is_some_and(|record| record.from > minute(until.plus_ms(CLOCKS_MS)));
            for record in &page.records {
                uptime.record(record);
            }
            request.after = Some(page.last_seq);
            if !page.more || past {
                break;
            }
            if !moved {
                self.pause().await?;
            }
        }
        // Whatever ended after the month began may have charged in it.
        self.request.until = None;
        self.empty = 0;
        while !self.over {
            let page = self.desk.receipts_page(&self.request).await?;
            let moved = self.request.after.is_none_or(|after| page.last_seq > after);
            self.request.after = Some(page.last_seq);
            self.over = !page.more;
            self.ts = page.ts;
            self.strange += page.strange;
            if page.more && !moved {
                self.pause().await?;
            }
            for r in page.receipts {
                uptime.used(&r);
            }
        }
        let mut rows = uptime.rows(&self.args.month.to_string(), |cp| {
            let zone = zones.get(cp).map_or("UTC", String::as_str);
            let (from, until) = self.args.month.at(&self.calendar.zone(zone));
            (minute(from), minute(until.min(now)))
        });
        if let Some(site) = &self.args.site {
            rows.retain(|row| row.site_id == *site);
        }
        Ok(rows)
    }
}

/// Rows on standard output, as they come.
struct Sheet {
    format: Format,
    csv: csv::Writer<BufWriter<Stdout>>,
    /// Of columns, for when there is no row.
    names: &'static [&'static str],
    head: String,
    rows: u64,
}

/// Locked for each write, so that messages and Ctrl-C find their way.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        lock().flush()
    }
}

fn lock() -> StdoutLock<'static> {
    io::stdout().lock()
}

impl Sheet {
    fn new(format: Format, args: &ExportArgs) -> Self {
        Self {
            format,
            csv: csv::Writer::from_writer(BufWriter::new(Stdout)),
            names: match args.what {
                What::Sessions => rows::SESSION_NAMES,
                What::Receipts => rows::RECEIPT_NAMES,
                What::Energy => rows::ENERGY_NAMES,
                What::Uptime => UPTIME_NAMES,
            },
            head: format!(
                "{{\"what\":\"{}\",\"month\":\"{}\",\"rows\":[",
                args.what.as_str(),
                args.month
            ),
            rows: 0,
        }
    }

    fn row(&mut self, row: &impl Serialize) -> Result<(), Failure> {
        self.rows += 1;
        match self.format {
            Format::Csv => {
                let cells = cells(row).map_err(|e| cannot_write(io::Error::other(e)))?;
                let (names, cells): (Vec<_>, Vec<_>) = cells.into_iter().unzip();
                if self.rows == 1 {
                    self.csv.write_record(names).map_err(not_written)?;
                }
                self.csv.write_record(cells).map_err(not_written)
            }
            Format::Json => {
                let text =
                    serde_json::to_string(row).map_err(|e| cannot_write(io::Error::other(e)))?;
                let before = if self.rows == 1 {
                    self.head.as_str()
                } else {
                    ","
                };
                let mut out = lock();
                writeln!(out, "{before}").map_err(cannot_write)?;
                write!(out, "{text}").map_err(cannot_write)
            }
        }
    }

    fn end(&mut self, walk: &Walk<'_>) -> Result<(), Failure> {
        match self.format {
            Format::Csv => {
                if self.rows == 0 {
                    self.csv.write_record(self.names).map_err(not_written)?;
                }
                self.csv.flush().map_err(cannot_write)
            }
            Format::Json => {
                let mut out = lock();
                if self.rows == 0 {
                    write!(out, "{}", self.head).map_err(cannot_write)?;
                }
                writeln!(
                    out,
                    "\n],\"count\":{},\"not_kept\":{},\"ts\":\"{}\"}}",
                    self.rows,
                    walk.not_kept,
                    Time(walk.ts)
                )
                .and_then(|()| out.flush())
                .map_err(cannot_write)
            }
        }
    }
}

fn not_written(error: csv::Error) -> Failure {
    cannot_write(match error.into_kind() {
        csv::ErrorKind::Io(source) => source,
        other => io::Error::other(format!("{other:?}")),
    })
}

fn cannot_write(source: io::Error) -> Failure {
    match source.kind() {
        io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
        _ => Failure::File {
            doing: "write the export".to_owned(),
            hint: "check where the output goes".to_owned(),
            source,
        },
    }
}
