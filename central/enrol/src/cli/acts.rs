//! What each verb does. In this order: it is checked, written down, done, put in force, told.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
};

use ev_client::shown_time;
use ev_contract::{ids::CpId, time::UnixMs};

use super::{
    Args, Leaf, Load, ServerArgs, Somebody, Verb,
    desk::{Desk, Failure},
    names,
};
use crate::{
    audit::{EnrolVerb, Whose},
    certificate,
    outbox::{Kept, Traits, Urgency},
    realm::{Draft, Enrolled, Issued, Realm, RealmError},
    roles::Role,
};

pub(super) fn act(args: &Args) -> Result<(), Failure> {
    match &args.verb {
        Verb::Init => init(args)?,
        Verb::Central(who) => enrol(args, Role::Central, who, &Traits::default())?,
        Verb::ChargePoint(all) => {
            let traits = Traits {
                site: all.site.clone(),
                time_zone: all.time_zone.clone(),
                max_kw: all.max_kw,
            };
            enrol(args, Role::ChargePoint, &all.who, &traits)?;
        }
        Verb::Driver(who) => enrol(args, Role::Driver, who, &Traits::default())?,
        Verb::Operator(who) => enrol(args, Role::Operator, who, &Traits::default())?,
        Verb::Maintainer(who) => enrol(args, Role::Maintainer, who, &Traits::default())?,
        Verb::Doorkeeper(who) => enrol(args, Role::Doorkeeper, who, &Traits::default())?,
        Verb::Leaf(leaf) => enrol_leaf(args, leaf)?,
        Verb::Load(load) => enrol_load(args, load)?,
        Verb::List { role, all } => {
            let desk = Desk::open(args)?;
            let roles = role.map_or_else(|| Role::ALL.to_vec(), |role| vec![role]);
            print(&list(&desk.realm.issued(&roles)?, *all, desk.now_s));
        }
        Verb::Forget { expired } => forget(args, *expired)?,
        Verb::Revoke {
            role,
            name,
            servers,
        } => revoke(args, *role, name, servers)?,
        Verb::Rotate {
            role,
            name,
            days,
            servers,
            all: _,
        } => {
            let days = days.unwrap_or_else(|| role.days());
            match name {
                Some(name) => rotate(args, *role, name, days, servers)?,
                None => rotate_role(args, *role, days, servers)?,
            }
        }
        Verb::RotateSigning { servers } => rotate_signing(args, servers)?,
        Verb::Certificate {
            next_authority: true,
            servers,
            ..
        } => next_authority(args, servers)?,
        Verb::Certificate {
            forget_authority: true,
            servers,
            ..
        } => forget_authority(args, servers)?,
        Verb::Certificate {
            hosts,
            client,
            days,
            servers,
            ..
        } => make_certificate(args, hosts, client.as_deref(), *days, servers)?,
        Verb::Push { all, servers } => {
            let mut desk = Desk::open(args)?;
            if *all {
                announce_all(&mut desk)?;
            }
            desk.put_in_force(servers)?;
        }
    }
    Ok(())
}

fn init(args: &Args) -> Result<(), RealmError> {
    let now_s = Desk::now_s();
    let realm = Realm::create(&args.dir, now_s)?;
    let mut desk = Desk::of(realm, args);
    let entry = desk.entry(EnrolVerb::Init, Whose::Installation, None, None);
    // No server can know these keys yet: it is told with what comes next.
    desk.put(vec![entry], Urgency::Usual)?;
    println!(
        "keys are in {}\n\
         give {} to every nats-server, beside its configuration\n\
         take {} to a safe place: only a new operator/signing.nk needs it",
        args.dir.display(),
        desk.realm.auth_conf().display(),
        args.dir.join("operator/root.nk").display()
    );
    Ok(())
}

fn enrol(args: &Args, role: Role, who: &Somebody, traits: &Traits) -> Result<(), Failure> {
    let verb = EnrolVerb::Enrol;
    let mut desk = Desk::open(args)?;
    let mut names = names::all(&who.names, who.from.as_deref())?;
    let mut refused = Vec::new();
    names.retain(|name| {
        let checked = if who.again {
            role.check_name(name).map_err(RealmError::from)
        } else {
            desk.realm.check_new(role, name, desk.now_s)
        };
        match checked {
            Ok(()) => true,
            Err(RealmError::Enrolled { .. }) if who.missing => false,
            Err(error) => {
                refused.push((name.clone(), error));
                false
            }
        }
    });
    if !refused.is_empty() {
        let whose: Vec<_> = refused
            .iter()
            .map(|(name, error)| (Whose::of(role, name), error))
            .collect();
        desk.refused(verb, &whose);
        desk.tell_of_refusal(&who.servers);
        return Err(Failure::Names(refused));
    }
    if names.is_empty() {
        println!("all of them have a credential that is good");
        return Ok(());
    }
    let days = who.days.unwrap_or_else(|| role.days());
    let drafts = draft(&desk, role, &names, days);
    let drafts = desk.tried(verb, &Whose::Role(role), drafts)?;
    write_down(&mut desk, verb, &drafts, Urgency::Usual)?;
    let enrolled = announced(&mut desk, (role, &names), false, traits, |realm, now_s| {
        realm.commit(drafts, now_s)
    });
    desk.tried(verb, &Whose::Role(role), enrolled)?
        .iter()
        .for_each(say);
    desk.tell_later(&who.servers);
    Ok(())
}

fn enrol_leaf(args: &Args, leaf: &Leaf) -> Result<(), Failure> {
    let (verb, role, site) = (EnrolVerb::Enrol, Role::Leaf, leaf.site.as_str());
    let mut desk = Desk::open(args)?;
    let names = names::all(&leaf.charge_points, leaf.from.as_deref())?;
    let drafted = draft_leaf(&desk, leaf, &names);
    let whose = Whose::of(role, site);
    let draft = told_if_refused(&mut desk, verb, &whose, drafted, &leaf.servers)?;
    let detail = format!("carries {}", names.join(", "));
    let key = draft.issued().key.clone();
    let entry = desk.entry(verb, whose.clone(), Some(&key), Some(detail));
    desk.put(vec![entry], Urgency::Usual)?;
    let now_s = desk.now_s;
    let enrolled = desk.realm.commit(vec![draft], now_s);
    desk.tried(verb, &whose, enrolled)?.iter().for_each(say);
    println!(
        "it carries {} charge points; the leaf also needs {}",
        names.len(),
        desk.realm.leaf_auth_conf().display()
    );
    desk.tell_later(&leaf.servers);
    Ok(())
}

fn draft_leaf(desk: &Desk, leaf: &Leaf, names: &[String]) -> Result<Draft, RealmError> {
    if leaf.again {
        Role::Leaf.check_name(&leaf.site)?;
    } else {
        desk.realm.check_new(Role::Leaf, &leaf.site, desk.now_s)?;
    }
    let carries = names.iter().map(CpId::new).collect::<Result<Vec<_>, _>>()?;
    let days = leaf.days.unwrap_or_else(|| Role::Leaf.days());
    let expires_at_s = crate::realm::expiry(days, desk.now_s)?;
    let signer = desk.realm.signer(Role::Leaf)?;
    desk.realm
        .draft_leaf(&signer, &leaf.site, carries, expires_at_s, desk.now_s)
}

/// Makes a load's credentials anew, whatever it had: it is no part of an installation.
fn enrol_load(args: &Args, load: &Load) -> Result<(), Failure> {
    let (verb, role) = (EnrolVerb::Enrol, Role::Load);
    let mut desk = Desk::open(args)?;
    let names = names::all(&[], Some(&load.from))?;
    let now_s = desk.now_s;
    let begun = desk.realm.begin_load(now_s);
    let is_first = desk.tried(verb, &Whose::Role(role), begun)?;
    let drafts = draft_load(&desk, load, &names);
    let drafts = desk.tried(verb, &Whose::of(role, &load.name), drafts)?;
    write_down(&mut desk, verb, &drafts, Urgency::Usual)?;
    let enrolled = desk.realm.commit(drafts, now_s);
    let enrolled = desk.tried(verb, &Whose::Role(role), enrolled)?;
    println!(
        "{} credentials for {} charge points are in {}",
        enrolled.len(),
        names.len(),
        args.dir.join(format!("creds/{role}")).display()
    );
    if is_first {
        // The servers do not know the key yet.
        return desk.put_in_force(&load.servers);
    }
    desk.tell_later(&load.servers);
    Ok(())
}

fn draft_load(desk: &Desk, load: &Load, names: &[String]) -> Result<Vec<Draft>, RealmError> {
    let charge_points = names.iter().map(CpId::new).collect::<Result<Vec<_>, _>>()?;
    let days = load.days.unwrap_or_else(|| Role::Load.days());
    let expires_at_s = crate::realm::expiry(days, desk.now_s)?;
    let signer = desk.realm.signer(Role::Load)?;
    desk.realm.draft_load(
        &signer,
        &load.name,
        &charge_points,
        expires_at_s,
        desk.now_s,
    )
}

fn draft(desk: &Desk, role: Role, names: &[String], days: u32) -> Result<Vec<Draft>, RealmError> {
    let expires_at_s = crate::realm::expiry(days, desk.now_s)?;
    let signer = desk.realm.signer(role)?;
    names
        .iter()
        .map(|name| {
            desk.realm
                .draft(&signer, role, name, expires_at_s, desk.now_s)
        })
        .collect()
}

/// An entry for each credential that is about to be written.
fn write_down(
    desk: &mut Desk,
    verb: EnrolVerb,
    drafts: &[Draft],
    urgency: Urgency,
) -> Result<(), RealmError> {
    let entries = drafts
        .iter()
        .map(|draft| {
            let issued = draft.issued();
            let whose = Whose::of(issued.role, &issued.name);
            desk.entry(verb, whose, Some(&issued.key), None)
        })
        .collect();
    desk.put(entries, urgency)
}

/// Central is told of charge points, and of nobody else.
fn announce(
    desk: &mut Desk,
    (role, names): (Role, &[String]),
    revoked: bool,
    traits: &Traits,
) -> Result<(), RealmError> {
    if role != Role::ChargePoint || names.is_empty() {
        return Ok(());
    }
    let at = desk.realm.announce_at(names, desk.now_s, desk.now_ms)?;
    let urgency = if revoked {
        Urgency::Urgent
    } else {
        Urgency::Usual
    };
    desk.put(Kept::announce(UnixMs(at), names, revoked, traits), urgency)
}

/// Announces, acts, and takes the announcement back where it did not come true: the other way
/// round, whoever is killed between the two leaves central in the dark.
fn announced<T>(
    desk: &mut Desk,
    (role, names): (Role, &[String]),
    revoked: bool,
    traits: &Traits,
    act: impl FnOnce(&mut Realm, i64) -> Result<T, RealmError>,
) -> Result<T, RealmError> {
    let before = desk.realm.outbox().end();
    announce(desk, (role, names), revoked, traits)?;
    let now_s = desk.now_s;
    let done = act(&mut desk.realm, now_s);
    if done.is_err()
        && role == Role::ChargePoint
        && let Err(error) = take_back_untrue(desk, before, (role, names), revoked, traits)
    {
        eprintln!(
            "central enrol: what central is told of these charge points may be untrue: {}\n\
             central enrol: `central enrol push --all` tells it how they are",
            ev_client::chain(&error)
        );
    }
    done
}

/// A step that failed may have been done for some of them, or for all.
fn take_back_untrue(
    desk: &mut Desk,
    before: (usize, u64),
    (role, names): (Role, &[String]),
    revoked: bool,
    traits: &Traits,
) -> Result<(), RealmError> {
    desk.realm.reload()?;
    let mut so = Vec::new();
    for name in names {
        let is_revoked = desk.realm.good(role, name, desk.now_s)?.is_empty();
        so.extend((is_revoked == revoked).then(|| name.clone()));
    }
    if so.len() == names.len() {
        return Ok(());
    }
    desk.realm.outbox().take_back(before)?;
    announce(desk, (role, &so), revoked, traits)
}

/// Tells of all charge points as they are.
fn announce_all(desk: &mut Desk) -> Result<(), RealmError> {
    let role = Role::ChargePoint;
    let issued = desk.realm.issued(&[role])?;
    let mut last: std::collections::BTreeMap<String, bool> = std::collections::BTreeMap::new();
    for one in issued {
        // Expired is not revoked: it comes back with a new file.
        let revoked = last.entry(one.name.clone()).or_insert(true);
        *revoked &= one.revoked_at_s.is_some();
    }
    for revoked in [false, true] {
        let names: Vec<String> = last
            .iter()
            .filter(|(_, is)| **is == revoked)
            .map(|(name, _)| name.clone())
            .collect();
        announce(desk, (role, &names), revoked, &Traits::default())?;
    }
    Ok(())
}

fn revoke(args: &Args, role: Role, name: &str, servers: &ServerArgs) -> Result<(), Failure> {
    let verb = EnrolVerb::Revoke;
    let whose = Whose::of(role, name);
    let mut desk = Desk::open(args)?;
    let good = may_replace(&desk, role, name);
    let good = told_if_refused(&mut desk, verb, &whose, good, servers)?;
    let entries = good
        .iter()
        .map(|one| desk.entry(verb, whose.clone(), Some(&one.key), None))
        .collect();
    desk.put(entries, Urgency::Urgent)?;
    let names = [name.to_owned()];
    let revoked = announced(
        &mut desk,
        (role, &names),
        true,
        &Traits::default(),
        |realm, now_s| realm.revoke(role, name, now_s),
    );
    let count = desk.tried(verb, &whose, revoked)?;
    println!("{role} {name}: {count} revoked");
    desk.put_in_force(servers)
}

fn rotate(
    args: &Args,
    role: Role,
    name: &str,
    days: u32,
    servers: &ServerArgs,
) -> Result<(), Failure> {
    let verb = EnrolVerb::Rotate;
    let whose = Whose::of(role, name);
    let mut desk = Desk::open(args)?;
    let names = [name.to_owned()];
    let drafts = may_replace(&desk, role, name).and_then(|_| draft(&desk, role, &names, days));
    let drafts = told_if_refused(&mut desk, verb, &whose, drafts, servers)?;
    write_down(&mut desk, verb, &drafts, Urgency::Urgent)?;
    let replaced = announced(
        &mut desk,
        (role, &names),
        false,
        &Traits::default(),
        |realm, now_s| {
            let replace = |draft| realm.replace(draft, now_s);
            drafts
                .into_iter()
                .map(replace)
                .collect::<Result<Vec<_>, _>>()
        },
    );
    desk.tried(verb, &whose, replaced)?.iter().for_each(say);
    desk.put_in_force(servers)
}

fn rotate_role(args: &Args, role: Role, days: u32, servers: &ServerArgs) -> Result<(), Failure> {
    let verb = EnrolVerb::RotateRole;
    let whose = Whose::Role(role);
    let mut desk = Desk::open(args)?;
    let now_s = desk.now_s;
    let drafted = desk.realm.draft_role(role, days, now_s);
    let (key, drafts) = told_if_refused(&mut desk, verb, &whose, drafted, servers)?;
    let detail = format!("{} credentials", drafts.len());
    let public = key.public_key();
    let entry = desk.entry(verb, whose.clone(), Some(&public), Some(detail));
    desk.put(vec![entry], Urgency::Urgent)?;
    write_down(&mut desk, EnrolVerb::Rotate, &drafts, Urgency::Urgent)?;
    let names: Vec<String> = drafts.iter().map(|d| d.issued().name.clone()).collect();
    let replaced = announced(
        &mut desk,
        (role, &names),
        false,
        &Traits::default(),
        |realm, now_s| realm.replace_role(role, &key, drafts, now_s),
    );
    desk.tried(verb, &whose, replaced)?.iter().for_each(say);
    desk.put_in_force(servers)
}

/// What is replaced or revoked must be there, and so must be what signs accounts.
fn may_replace(desk: &Desk, role: Role, name: &str) -> Result<Vec<Issued>, RealmError> {
    let good = desk.realm.some_good(role, name, desk.now_s)?;
    desk.realm.account_signer()?;
    Ok(good)
}

fn told_if_refused<T>(
    desk: &mut Desk,
    verb: EnrolVerb,
    whose: &Whose,
    result: Result<T, RealmError>,
    servers: &ServerArgs,
) -> Result<T, RealmError> {
    let result = desk.tried(verb, whose, result);
    if result.is_err() {
        desk.tell_of_refusal(servers);
    }
    result
}

fn rotate_signing(args: &Args, servers: &ServerArgs) -> Result<(), Failure> {
    let verb = EnrolVerb::RotateSigning;
    let mut desk = Desk::open(args)?;
    let entry = desk.entry(verb, Whose::Installation, None, None);
    desk.put(vec![entry], Urgency::Urgent)?;
    let now_s = desk.now_s;
    let rotated = desk.realm.rotate_signing(now_s);
    desk.tried(verb, &Whose::Installation, rotated)?;
    println!(
        "stop every nats-server, remove its folder of accounts, give it {}, and start it",
        desk.realm.auth_conf().display()
    );
    desk.tell_later(servers);
    Ok(())
}

fn make_certificate(
    args: &Args,
    hosts: &[String],
    client: Option<&str>,
    days: u32,
    servers: &ServerArgs,
) -> Result<(), Failure> {
    let verb = EnrolVerb::Certificate;
    let what = match client {
        Some(name) => format!("client {name}"),
        None => format!("server {}", hosts.join(", ")),
    };
    let mut desk = some_desk(args)?;
    let checked = match client {
        Some(name) => certificate::check(&[name.to_owned()], days),
        None => certificate::check_server(hosts, days),
    };
    if let Some(desk) = &mut desk {
        desk.tried(verb, &Whose::Installation, checked)?;
        let entry = desk.entry(verb, Whose::Installation, None, Some(what));
        desk.put(vec![entry], Urgency::Usual)?;
    }
    // It locks the folder itself.
    drop(desk);
    let now_s = Desk::now_s();
    let made = match client {
        Some(name) => certificate::client(&args.dir, name, days, now_s),
        None => certificate::server(&args.dir, hosts, days, now_s),
    };
    let mut desk = some_desk(args)?;
    if let (Some(desk), Err(error)) = (&mut desk, &made) {
        desk.refused(verb, &[(Whose::Installation, error)]);
    }
    let made = made?;
    println!(
        "{} and {} are good until {}\nwhoever it speaks to needs {}",
        made.certificate.display(),
        made.key.display(),
        shown_time(made.expires_at_s),
        made.ca.display()
    );
    if let Some(desk) = &mut desk {
        desk.tell_later(servers);
    }
    Ok(())
}

fn next_authority(args: &Args, servers: &ServerArgs) -> Result<(), Failure> {
    let path = of_authority(args, servers, "next authority of servers", || {
        certificate::next_authority(&args.dir, Desk::now_s())
    })?;
    println!(
        "{} holds the next authority and the present one\ngive it to every client and server, then \
         make new certificates for the servers",
        path.display()
    );
    Ok(())
}

fn forget_authority(args: &Args, servers: &ServerArgs) -> Result<(), Failure> {
    let path = of_authority(
        args,
        servers,
        "former authority of servers forgotten",
        || certificate::forget_former_authority(&args.dir),
    )?;
    println!(
        "{} holds the present authority alone\ngive it to every client and server",
        path.display()
    );
    Ok(())
}

/// Written down as what it is, and then done.
fn of_authority<T>(
    args: &Args,
    servers: &ServerArgs,
    what: &str,
    act: impl FnOnce() -> Result<T, RealmError>,
) -> Result<T, Failure> {
    let verb = EnrolVerb::Certificate;
    let mut desk = some_desk(args)?;
    if let Some(desk) = &mut desk {
        let entry = desk.entry(verb, Whose::Installation, None, Some(what.to_owned()));
        desk.put(vec![entry], Urgency::Usual)?;
    }
    // It locks the folder itself.
    drop(desk);
    let done = act();
    let mut desk = some_desk(args)?;
    if let Some(desk) = &mut desk {
        match &done {
            Ok(_) => desk.tell_later(servers),
            Err(error) => desk.refused(verb, &[(Whose::Installation, error)]),
        }
    }
    Ok(done?)
}

/// Certificates can be made where there are no other keys.
fn some_desk(args: &Args) -> Result<Option<Desk>, RealmError> {
    match Desk::open(args) {
        Err(RealmError::Missing(_)) => Ok(None),
        desk => desk.map(Some),
    }
}

fn forget(args: &Args, days: u32) -> Result<(), RealmError> {
    let mut desk = Desk::open(args)?;
    let detail = Some(format!("expired more than {days} days ago"));
    let entry = desk.entry(EnrolVerb::Forget, Whose::Installation, None, detail);
    desk.put(vec![entry], Urgency::Usual)?;
    let now_s = desk.now_s;
    let forgotten = desk.realm.forget_expired(days, now_s);
    let count = desk.tried(EnrolVerb::Forget, &Whose::Installation, forgotten)?;
    println!("{count} forgotten");
    Ok(())
}

fn say(enrolled: &Enrolled) {
    println!(
        "{} is good until {}",
        enrolled.path.display(),
        shown_time(enrolled.expires_at_s)
    );
}

fn list(issued: &[Issued], all: bool, now_s: i64) -> String {
    let mut text = format!("{:<13} {:<24} {:<9} UNTIL\n", "ROLE", "NAME", "STATE");
    for one in issued.iter().filter(|one| all || one.is_good(now_s)) {
        let (state, at) = match one.revoked_at_s {
            Some(at) => ("revoked", at),
            None if one.is_good(now_s) => ("good", one.expires_at_s),
            None => ("expired", one.expires_at_s),
        };
        let (role, name, at) = (one.role, &one.name, shown_time(at));
        // Writing to memory does not fail.
        let _ = writeln!(text, "{role:<13} {name:<24} {state:<9} {at}");
    }
    text
}

/// Whoever reads it may have seen enough.
fn print(text: &str) {
    let _ = io::stdout().lock().write_all(text.as_bytes());
}
