//! How a command is typed again: for hints that can be copied.

use ev_contract::{
    time::UnixMs,
    units::Amount,
    v1::{IdleFrom, LimitsRequest, PriceComponent, TariffTerms},
};

use crate::{command::Command, doc::Time, quantity::TariffVersion};

/// The program's name and the global options that a repeat needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    prefix: String,
}

impl Invocation {
    /// The program's name, and options with their values. Options that have their defaults are
    /// left out by the caller.
    #[must_use]
    pub fn new<'a>(options: impl IntoIterator<Item = (&'static str, &'a str)>) -> Self {
        let mut prefix = String::from("driver-cli");
        for (option, value) in options {
            prefix.push_str(&format!(" {option} {}", quoted(value)));
        }
        Self { prefix }
    }

    /// A command line.
    #[must_use]
    pub fn line(&self, rest: &str) -> String {
        format!("{} {rest}", self.prefix)
    }

    /// The command line that repeats this very request.
    #[must_use]
    pub fn repeat(&self, command: &Command) -> String {
        let mut words = words_of(command);
        option(
            &mut |word: &str| words.push(quoted(word)),
            "--request-id",
            Some(command.stamp().0),
        );
        self.line(&words.join(" "))
    }

    /// The command line that asks for the same anew.
    #[must_use]
    pub fn anew(&self, command: &Command) -> String {
        self.line(&words_of(command).join(" "))
    }
}

fn words_of(command: &Command) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut say = |word: &str| words.push(quoted(word));
    match command {
        Command::Start(r) => {
            say("start");
            say(&r.cp_id);
            option(&mut say, "--connector", r.connector);
            limits(&mut say, r.limits.as_ref());
        }
        Command::Stop(r) => {
            say("stop");
            say(&r.session_id);
        }
        Command::CpEnable(r)
        | Command::CpDisable(r)
        | Command::CpUnlock(r)
        | Command::CpReset(r) => {
            say("op");
            say("cp");
            say(command.verb().trim_start_matches("cp_"));
            say(&r.cp_id);
            option(&mut say, "--connector", r.connector);
        }
        Command::CpSite(r) => {
            for word in ["op", "cp", "site", &r.cp_id, &r.site_id] {
                say(word);
            }
            option(&mut say, "--time-zone", r.time_zone.as_ref());
        }
        Command::SessionStart(r) => {
            say("op");
            say("session");
            say("start");
            say(&r.cp_id);
            option(&mut say, "--driver", Some(&r.driver_id));
            option(&mut say, "--connector", r.connector);
            limits(&mut say, r.limits.as_ref());
        }
        Command::SessionEnd(r) => {
            say("op");
            say("session");
            say("end");
            say(&r.session_id);
            option(&mut say, "--reason", Some(&r.reason));
            if r.write_off {
                say("--write-off");
            }
        }
        Command::SessionAdjust(r) => {
            say("op");
            say("session");
            say("adjust");
            say(&r.session_id);
            option(&mut say, "--amount", Some(&r.amount));
            option(&mut say, "--reason", Some(&r.reason));
        }
        Command::DriverBlock(r) | Command::DriverUnblock(r) => {
            say("op");
            say("driver");
            say(command.verb().trim_start_matches("driver_"));
            say(&r.driver_id);
            option(&mut say, "--reason", r.reason.as_ref());
        }
        Command::TariffSet(r) => {
            say("op");
            say("tariff");
            say("set");
            say(&r.tariff_id);
            option(&mut say, "--scope", Some(&r.scope));
            terms(&mut say, &r.terms);
            let from = r.from.map(|from| Time(UnixMs(from)));
            option(&mut say, "--from", from);
        }
        Command::TariffRm(r) => {
            say("op");
            say("tariff");
            say("rm");
            option(&mut say, "--scope", Some(&r.scope));
            if r.scheduled_only {
                say("--scheduled");
            }
        }
    }
    option(
        &mut say,
        "--tariff",
        command.price().cloned().map(TariffVersion),
    );
    words
}

fn option(say: &mut impl FnMut(&str), name: &str, value: Option<impl ToString>) {
    if let Some(value) = value {
        let value = value.to_string();
        // A value that begins with a minus would be taken for an option.
        if value.starts_with('-') {
            say(&format!("{name}={value}"));
        } else {
            say(name);
            say(&value);
        }
    }
}

fn terms(say: &mut impl FnMut(&str), terms: &TariffTerms) {
    let money = |amount: Amount| format!("{amount}{}", terms.currency);
    let price = |component| money(terms.price(component));
    option(say, "--per-kwh", Some(price(PriceComponent::Energy)));
    option(say, "--start-fee", Some(price(PriceComponent::StartFee)));
    let least = format!("{}Wh", terms.start_fee_min_wh);
    option(say, "--start-fee-min-energy", Some(least));
    if let Some(idle) = &terms.idle {
        option(say, "--idle-per-minute", Some(price(PriceComponent::Idle)));
        option(say, "--idle-grace", Some(format!("{}s", idle.grace_s)));
        option(say, "--idle-cap", Some(money(idle.cap)));
        let from = match idle.from {
            IdleFrom::EnergyEnded => "end".to_owned(),
            IdleFrom::WithoutPowerS(s) => format!("{s}s"),
        };
        option(say, "--idle-from", Some(from));
        if idle.after_fault {
            say("--idle-after-fault");
        }
    }
    option(say, "--min", terms.min_price.map(money));
    option(say, "--max", terms.max_price.map(money));
    for tax in &terms.taxes {
        option(say, "--tax", Some(format!("{} {}%", tax.name, tax.percent)));
    }
    if terms.prices_net {
        say("--prices-net");
    }
}

fn limits(say: &mut impl FnMut(&str), limits: Option<&LimitsRequest>) {
    let Some(limits) = limits else { return };
    let cost = limits.cost.as_ref().map(|cost| {
        let currency = limits.currency.as_deref().unwrap_or_default();
        format!("{cost}{currency}")
    });
    option(
        say,
        "--limit-energy",
        limits.energy_wh.map(|wh| format!("{wh}Wh")),
    );
    option(say, "--limit-time", limits.time_s.map(|s| format!("{s}s")));
    option(say, "--limit-cost", cost);
}

/// As a shell needs it.
fn quoted(word: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:=,+@%".contains(&b);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_carries_everything_that_the_request_says() {
        let invocation = Invocation::new([("--driver", "alice")]);
        let start = Command::start(
            "CP-001".into(),
            Some(2),
            Some(LimitsRequest {
                energy_wh: Some(-5),
                time_s: Some(1_800),
                cost: Some("10.50".into()),
                currency: Some("EUR".into()),
            }),
        )
        .stamped("r-1", 0);
        assert_eq!(
            invocation.repeat(&start),
            "driver-cli --driver alice start CP-001 --connector 2 --limit-energy=-5Wh \
             --limit-time 1800s --limit-cost 10.50EUR --request-id r-1"
        );
    }

    #[test]
    fn what_a_shell_would_read_as_more_is_quoted() {
        assert_eq!(quoted("a b'c"), r"'a b'\''c'");
        assert_eq!(quoted(""), "''");
    }
}
