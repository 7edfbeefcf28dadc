//! `op`: what operators do.

use ev_contract::{
    ids::{RequestId, SessionId},
    time::UnixMs,
    units::Currency,
    v1::{
        CpActRequest, CpSiteRequest, DriverBlockRequest, EventsRequest, IdleFee, OpReply,
        OpStartRequest, PriceComponent, ScopedTariff, SessionAdjustRequest, SessionEndRequest,
        Tariff, TariffRmRequest, TariffSetRequest, TariffTerms,
    },
    wire::{CENTRAL, Tag},
};

use super::{Ctx, connector_of, limits_request};
use crate::{
    args::{CpAct, OpCp, OpDriver, OpSession, OpTariff, TariffSet},
    command::Command,
    desk::{Desk, SessionFilter},
    doc::{CpsDoc, OpDoc, OpsDoc, SessionsDoc, TariffsDoc, Time},
    exit::Exit,
    failure::Failure,
    quantity::{Money, Price},
    render::table,
};

/// Most pages that are read to find the currency of one session.
const CURRENCY_PAGES_MAX: usize = 50;

const NO_CHARGE_POINTS: &str =
    "there is no charge point: none was enrolled or has presented itself to central";

/// What a verb does to a charge point.
type Act = fn(CpActRequest) -> Command;

/// Refuses a charge point that central does not know.
pub(super) async fn known(ctx: &Ctx, desk: &Desk, cp: &str) -> Result<(), Failure> {
    let (views, ts) = ctx.query(desk.cp_ls(Some(cp))).await?;
    if views.iter().any(|view| view.cp_id.as_str() == cp) {
        return Ok(());
    }
    Err(unknown(cp, ts))
}

fn unknown(cp: &str, ts: UnixMs) -> Failure {
    Failure::refused(
        ev_contract::codes::Code::UnknownChargePoint.about(cp),
        crate::failure::About {
            cp_id: Some(cp.to_owned()),
            ts: Some(ts),
            ..crate::failure::About::default()
        },
    )
}

pub(super) async fn cp(ctx: &Ctx, verb: OpCp) -> Result<Exit, Failure> {
    let desk = ctx.operator_desk().await?;
    match verb {
        OpCp::Ls => {
            let (views, ts) = ctx.query(desk.cp_ls(None)).await?;
            if views.is_empty() && !ctx.output.is_json() {
                ctx.output.message(NO_CHARGE_POINTS);
                return Ok(Exit::Ok);
            }
            ctx.output.data(&CpsDoc::new(&views, ts), || {
                table::charge_points_for_operators(&views)
            })?;
            Ok(Exit::Ok)
        }
        OpCp::Show { cp } => {
            let (views, ts) = ctx.query(desk.cp_ls(Some(&cp))).await?;
            let Some(view) = views.iter().find(|v| v.cp_id.as_str() == cp) else {
                return Err(unknown(&cp, ts));
            };
            ctx.output
                .data(&CpsDoc::new(std::slice::from_ref(view), ts), || {
                    table::charge_point(view, ts)
                })?;
            Ok(Exit::Ok)
        }
        OpCp::Enable(args) => act(ctx, &desk, Command::CpEnable, args).await,
        OpCp::Disable(args) => act(ctx, &desk, Command::CpDisable, args).await,
        OpCp::Unlock(args) => act(ctx, &desk, Command::CpUnlock, args).await,
        OpCp::Reset(args) => act(ctx, &desk, Command::CpReset, args).await,
        OpCp::Site {
            cp,
            site,
            time_zone,
            repeat,
        } => {
            let wish = Command::CpSite(CpSiteRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                request_id: String::new(),
                expires_at: 0,
                cp_id: cp.clone(),
                site_id: site.to_string(),
                time_zone,
            });
            single(ctx, &desk, &wish, repeat.request_id.as_ref(), Some(cp)).await
        }
    }
}

async fn act(ctx: &Ctx, desk: &Desk, verb: Act, args: CpAct) -> Result<Exit, Failure> {
    let wish = |cp_id: String, connector: Option<i64>| {
        verb(CpActRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            request_id: String::new(),
            expires_at: 0,
            cp_id,
            connector,
        })
    };
    if let Some(place) = args.place {
        let connector = connector_of(&place, args.connector)?;
        let wish = wish(place.cp_id.clone(), connector);
        return single(
            ctx,
            desk,
            &wish,
            args.repeat.request_id.as_ref(),
            Some(place.cp_id),
        )
        .await;
    }
    // Each charge point is a wish of its own: one that cannot be reached holds up no other.
    let (views, _) = ctx.query(desk.cp_ls(None)).await?;
    if views.is_empty() {
        ctx.output.message(NO_CHARGE_POINTS);
    }
    let mut exit = Exit::Ok;
    let mut results = Vec::new();
    for view in views {
        let cp_id = view.cp_id.to_string();
        let result = submit(ctx, desk, &wish(cp_id.clone(), None), None).await;
        match result {
            Ok(reply) => results.push(OpDoc::done(&reply, Some(cp_id))),
            Err(failure @ Failure::Interrupted { .. }) => return Err(failure),
            Err(failure) => {
                ctx.output.error(&failure);
                if exit == Exit::Ok {
                    exit = failure.exit();
                }
                results.push(OpDoc::failed(&failure, Some(cp_id)));
            }
        }
    }
    let doc = OpsDoc { results };
    ctx.output.data(&doc, || {
        doc.results.iter().map(text).collect::<Vec<_>>().join("\n")
    })?;
    Ok(exit)
}

pub(super) async fn session(ctx: &Ctx, verb: OpSession) -> Result<Exit, Failure> {
    let desk = ctx.operator_desk().await?;
    match verb {
        OpSession::Ls {
            all,
            cp,
            rows,
            before,
        } => {
            let filter = SessionFilter {
                // A driver in the environment is the operator's own, and no filter.
                driver_id: ctx
                    .global
                    .driver
                    .as_ref()
                    .filter(|_| ctx.typed.driver)
                    .map(ToString::to_string),
                cp_id: cp,
                session_id: None,
                all,
            };
            ls(ctx, &desk, &filter, rows, before).await
        }
        OpSession::Show { session } => show(ctx, &desk, &session).await,
        OpSession::Start {
            place,
            connector,
            limits,
            tariff,
            repeat,
        } => {
            let driver = ctx.global.driver.as_ref().filter(|_| ctx.typed.driver);
            let Some(driver) = driver else {
                return Err(Failure::usage(
                    "say for which driver to start",
                    "op session start CP-001 --driver alice",
                ));
            };
            let wish = Command::SessionStart(OpStartRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                request_id: String::new(),
                expires_at: 0,
                driver_id: driver.to_string(),
                cp_id: place.cp_id.clone(),
                connector: connector_of(&place, connector)?,
                limits: limits_request(&limits),
                tariff: tariff.map(|price| price.0),
            });
            single(
                ctx,
                &desk,
                &wish,
                repeat.request_id.as_ref(),
                Some(place.cp_id),
            )
            .await
        }
        OpSession::End {
            session,
            reason,
            write_off,
            repeat,
        } => {
            let id = ctx.query(desk.resolve(&session)).await?;
            let wish = Command::SessionEnd(SessionEndRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                request_id: String::new(),
                expires_at: 0,
                session_id: id.to_string(),
                reason,
                write_off,
            });
            single(ctx, &desk, &wish, repeat.request_id.as_ref(), None).await
        }
        OpSession::Adjust {
            session,
            amount,
            reason,
            repeat,
        } => {
            let id = ctx.query(desk.resolve(&session)).await?;
            ctx.query(check_currency(&desk, id, amount)).await?;
            let wish = Command::SessionAdjust(SessionAdjustRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                request_id: String::new(),
                expires_at: 0,
                session_id: id.to_string(),
                amount: amount.amount.to_string(),
                reason,
            });
            single(ctx, &desk, &wish, repeat.request_id.as_ref(), None).await
        }
    }
}

/// One session, what it waits for, and what central remembers of it.
/// What is to be said where central does not remember all that has happened since a time.
pub(super) fn forgotten(since: UnixMs, remembers_from: UnixMs) -> Option<String> {
    (remembers_from > since).then(|| {
        format!(
            "central remembers what happened since {}; of what was before, see `op audit` and `op export`",
            Time(remembers_from)
        )
    })
}

async fn show(ctx: &Ctx, desk: &Desk, session: &str) -> Result<Exit, Failure> {
    let id = ctx.query(desk.resolve(session)).await?;
    let filter = SessionFilter {
        session_id: Some(id.to_string()),
        ..SessionFilter::default()
    };
    let page = ctx
        .query(desk.session_ls_page(&filter, None, Some(1)))
        .await?;
    let Some(view) = page.sessions.iter().find(|s| s.session_id == id) else {
        return Err(Failure::refused(
            ev_contract::codes::Code::SessionNotFound.about(&id.to_string()),
            crate::failure::About {
                session_id: Some(id.to_string()),
                ts: Some(page.ts),
                ..crate::failure::About::default()
            },
        ));
    };
    if ctx.output.is_json() {
        let doc = SessionsDoc::new(std::slice::from_ref(view), None, page.ts);
        ctx.output.document(&doc)?;
        return Ok(Exit::Ok);
    }
    let events = ctx
        .query(desk.events_page(&EventsRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            after: None,
            since: None,
            cp_id: None,
            session_id: Some(id.to_string()),
            rows: None,
        }))
        .await?;
    if let Some(from) = forgotten(view.accepted_at, events.remembers_from) {
        ctx.output.message(&from);
    }
    ctx.output
        .text(&table::session_for_operators(view, &events.events, page.ts))?;
    Ok(Exit::Ok)
}

async fn ls(
    ctx: &Ctx,
    desk: &Desk,
    filter: &SessionFilter,
    rows: u32,
    before: Option<String>,
) -> Result<Exit, Failure> {
    let wanted = usize::try_from(rows).unwrap_or(usize::MAX);
    let mut sessions = Vec::new();
    let mut next = match before {
        Some(text) => Some(ctx.query(desk.resolve(&text)).await?.to_string()),
        None => None,
    };
    let ts = loop {
        let missing = u32::try_from(wanted - sessions.len()).unwrap_or(u32::MAX);
        let page = ctx
            .query(desk.session_ls_page(filter, next, Some(missing)))
            .await?;
        let grew = !page.sessions.is_empty();
        sessions.extend(page.sessions);
        next = page.next;
        if sessions.len() >= wanted || next.is_none() || !grew {
            break page.ts;
        }
    };
    if sessions.len() > wanted {
        sessions.truncate(wanted);
        next = sessions.last().map(|s| s.session_id.to_string());
    }
    if sessions.is_empty() && !ctx.output.is_json() {
        ctx.output.message("there are no such sessions");
        return Ok(Exit::Ok);
    }
    ctx.output
        .data(&SessionsDoc::new(&sessions, next.clone(), ts), || {
            table::sessions(&sessions, Some(ts))
        })?;
    if let Some(before) = next {
        ctx.output
            .message(&format!("older ones: --before {before}"));
    }
    Ok(Exit::Ok)
}

pub(super) async fn driver(ctx: &Ctx, verb: OpDriver) -> Result<Exit, Failure> {
    let desk = ctx.operator_desk().await?;
    let (make, args): (fn(DriverBlockRequest) -> Command, _) = match verb {
        OpDriver::Block(args) => (Command::DriverBlock, args),
        OpDriver::Unblock(args) => (Command::DriverUnblock, args),
    };
    let wish = make(DriverBlockRequest {
        tag: Tag::new(),
        to: CENTRAL.to_owned(),
        request_id: String::new(),
        expires_at: 0,
        driver_id: args.subject,
        reason: args.reason,
    });
    single(ctx, &desk, &wish, args.repeat.request_id.as_ref(), None).await
}

pub(super) async fn tariff(ctx: &Ctx, verb: OpTariff) -> Result<Exit, Failure> {
    match verb {
        OpTariff::Ls => {
            let desk = ctx.operator_desk().await?;
            let reply = ctx.query(desk.tariff_ls()).await?;
            if reply.tariffs.is_empty() && !ctx.output.is_json() {
                ctx.output.message("no tariff is set: charging is free");
                return Ok(Exit::Ok);
            }
            ctx.output
                .data(&TariffsDoc::new(&reply.tariffs, reply.ts), || {
                    table::tariffs(&reply.tariffs)
                })?;
            Ok(Exit::Ok)
        }
        OpTariff::Show { tariff_id } => {
            let desk = ctx.operator_desk().await?;
            let reply = ctx.query(desk.tariff_ls()).await?;
            let named = named(reply.tariffs, &tariff_id);
            if named.is_empty() {
                return Err(Failure::refused(
                    ev_contract::codes::Code::TariffNotFound.about(&tariff_id),
                    crate::failure::About {
                        ts: Some(reply.ts),
                        ..crate::failure::About::default()
                    },
                ));
            }
            ctx.output
                .data(&TariffsDoc::new(&named, reply.ts), || table::tariff(&named))?;
            Ok(Exit::Ok)
        }
        OpTariff::Set(args) => {
            let terms = terms(&args)?;
            let desk = ctx.operator_desk().await?;
            let wish = Command::TariffSet(TariffSetRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                request_id: String::new(),
                expires_at: 0,
                tariff_id: args.tariff_id,
                scope: args.scope,
                from: args.from.map(|from| from.0),
                terms,
            });
            single(ctx, &desk, &wish, args.repeat.request_id.as_ref(), None).await
        }
        OpTariff::Rm {
            scope,
            scheduled,
            repeat,
        } => {
            let desk = ctx.operator_desk().await?;
            let wish = Command::TariffRm(TariffRmRequest {
                tag: Tag::new(),
                to: CENTRAL.to_owned(),
                request_id: String::new(),
                expires_at: 0,
                scope,
                scheduled_only: scheduled,
            });
            single(ctx, &desk, &wish, repeat.request_id.as_ref(), None).await
        }
    }
}

/// What is set or scheduled of one tariff.
fn named(tariffs: Vec<ScopedTariff>, id: &str) -> Vec<ScopedTariff> {
    let is = |tariff: &Tariff| tariff.tariff_id.as_str() == id;
    tariffs
        .into_iter()
        .map(|mut at| {
            at.tariff = at.tariff.filter(is);
            at.scheduled.retain(|next| is(&next.tariff));
            at
        })
        .filter(|at| at.tariff.is_some() || !at.scheduled.is_empty())
        .collect()
}

/// Prices from the command line, all in one currency.
fn terms(args: &TariffSet) -> Result<TariffTerms, Failure> {
    let currency = args.per_kwh.currency;
    let same = |price: &Price| {
        if price.currency == currency {
            Ok(price.amount)
        } else {
            Err(Failure::usage(
                format!(
                    "a tariff has one currency, not {currency} and {}",
                    price.currency
                ),
                "write all prices in the same one",
            ))
        }
    };
    let optional = |price: &Option<Price>| price.as_ref().map(same).transpose();
    let small = |name: &str, value: i64| {
        u32::try_from(value).map_err(|_| {
            Failure::usage(
                format!("{name} is out of range"),
                "see --help for what is usual",
            )
        })
    };
    let mut terms = TariffTerms::free(currency).with(PriceComponent::Energy, args.per_kwh.amount);
    if let Some(fee) = optional(&args.start_fee)? {
        terms = terms.with(PriceComponent::StartFee, fee);
    }
    if let (Some(price), Some(cap)) = (optional(&args.idle_per_minute)?, optional(&args.idle_cap)?)
    {
        terms = terms.with(PriceComponent::Idle, price);
        terms.idle = Some(IdleFee {
            grace_s: args
                .idle_grace
                .map_or(Ok(0), |grace| small("--idle-grace", grace.0))?,
            cap,
            from: args.idle_from.unwrap_or_default(),
            after_fault: args.idle_after_fault,
        });
    }
    if let Some(percent) = args.vat {
        terms = terms.taxed("VAT", percent);
    }
    terms.taxes.extend(args.tax.iter().cloned());
    terms.start_fee_min_wh = small("--start-fee-min-energy", args.start_fee_min_energy.0)?;
    terms.min_price = optional(&args.min)?;
    terms.max_price = optional(&args.max)?;
    terms.prices_net = args.prices_net;
    Ok(terms)
}

/// The request carries a bare number in the receipt's currency: whoever wrote another currency
/// means another amount.
async fn check_currency(desk: &Desk, session: SessionId, money: Money) -> Result<(), Failure> {
    let Some(written) = money.currency else {
        return Ok(());
    };
    match currency_of(desk, session).await? {
        Some(currency) if currency == written => Ok(()),
        Some(currency) => Err(Failure::usage(
            format!("the receipt of session {session} is in {currency}, not {written}"),
            format!("give the amount in {currency}"),
        )),
        None => Err(Failure::usage(
            format!("whether session {session} was paid in {written} cannot be told"),
            "leave the currency out: the amount is then in the receipt's",
        )),
    }
}

async fn currency_of(desk: &Desk, session: SessionId) -> Result<Option<Currency>, Failure> {
    let all = SessionFilter {
        all: true,
        ..SessionFilter::default()
    };
    let mut before = None;
    for _ in 0..CURRENCY_PAGES_MAX {
        let page = desk.session_ls_page(&all, before, None).await?;
        let empty = page.sessions.is_empty();
        if let Some(view) = page.sessions.iter().find(|s| s.session_id == session) {
            return Ok(Some(view.currency));
        }
        if page.next.is_none() || empty {
            break;
        }
        before = page.next;
    }
    Ok(None)
}

async fn single(
    ctx: &Ctx,
    desk: &Desk,
    wish: &Command,
    named: Option<&RequestId>,
    cp_id: Option<String>,
) -> Result<Exit, Failure> {
    let reply = submit(ctx, desk, wish, named).await?;
    let doc = OpDoc::done(&reply, cp_id);
    ctx.output.data(&doc, || text(&doc))?;
    Ok(Exit::Ok)
}

async fn submit(
    ctx: &Ctx,
    desk: &Desk,
    wish: &Command,
    named: Option<&RequestId>,
) -> Result<OpReply, Failure> {
    ctx.carry_out(desk, wish, None, named).await
}

fn text(doc: &OpDoc) -> String {
    let mut parts = vec![doc.status.clone()];
    parts.extend(doc.cp_id.clone());
    parts.extend(doc.session_id.as_ref().map(|id| format!("session {id}")));
    parts.extend(doc.detail.clone());
    parts.extend(doc.error.as_ref().map(|e| e.message.clone()));
    crate::render::format::harmless(&parts.join("  "))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        args::{Cli, OpVerb, Verb},
        invocation::Invocation,
    };

    fn typed(line: &str) -> Result<Command, Failure> {
        let words = line.split('|');
        let cli = Cli::try_parse_from(words).expect("a command line");
        let Verb::Op {
            verb: OpVerb::Tariff {
                verb: OpTariff::Set(args),
            },
        } = cli.verb
        else {
            panic!("another verb");
        };
        Ok(Command::TariffSet(TariffSetRequest {
            tag: Tag::new(),
            to: CENTRAL.to_owned(),
            request_id: "r-1".into(),
            expires_at: 0,
            tariff_id: args.tariff_id.clone(),
            scope: args.scope.clone(),
            from: args.from.map(|from| from.0),
            terms: terms(&args)?,
        }))
    }

    #[test]
    fn a_tariff_is_what_was_typed_and_is_typed_again_in_full() {
        let line = "driver-cli|op|tariff|set|fast|--scope|site:dock|--per-kwh|0.40CAD\
            |--start-fee|1CAD|--idle-per-minute|0.10CAD|--idle-grace|15m|--idle-cap|10CAD\
            |--idle-from|end|--idle-after-fault|--min|2CAD|--max|30CAD|--tax|GST 5%\
            |--tax|QST 9.975%|--prices-net|--from|2027-01-01T00:00:00Z";
        let wish = typed(line).expect("terms");
        let Command::TariffSet(set) = &wish else {
            panic!("another command");
        };
        assert_eq!(set.from, Some(1_798_761_600_000));
        assert_eq!(set.terms.taxes.len(), 2);
        assert!(set.terms.prices_net);
        assert_eq!(
            Invocation::new([]).repeat(&wish),
            "driver-cli op tariff set fast --scope site:dock --per-kwh 0.40CAD --start-fee 1CAD \
             --start-fee-min-energy 10Wh --idle-per-minute 0.10CAD --idle-grace 900s \
             --idle-cap 10CAD --idle-from end --idle-after-fault --min 2CAD --max 30CAD \
             --tax 'GST 5%' --tax 'QST 9.975%' --prices-net --from 2027-01-01T00:00:00.000Z \
             --request-id r-1"
        );
    }

    #[test]
    fn a_tariff_has_one_currency() {
        let line = "driver-cli|op|tariff|set|t|--scope|default|--per-kwh|0.40EUR|--max|30CHF";
        let refused = typed(line).expect_err("two currencies");
        assert!(refused.message().contains("one currency"), "{refused:?}");
    }
}
