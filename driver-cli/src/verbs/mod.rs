//! The verbs, one file each, and what they share.

mod audit;
mod completions;
mod doctor;
mod events;
mod export;
mod history;
mod list;
mod manual;
mod newer;
mod op;
mod receipt;
mod run;
mod serve;
mod start;
mod status;
mod stop;
mod wait;
mod watch;

use std::{
    env,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use ev_client::{Access, AccessError, Credential, Tls, shown_time};
pub(crate) use events::Reaches;
pub(crate) use start::place_of;

use ev_contract::{
    ids::{DriverId, InvalidId, OperatorId, RequestId},
    v1::{LimitsRequest, TariffRef},
};
use tokio::{sync::watch as notice, task::AbortHandle};

use crate::{
    args::{Cli, DEFAULT_NATS_URL, DEFAULT_OPERATOR, Global, LimitArgs, OpVerb, Verb},
    client::Client,
    command::Command,
    desk::{Desk, Verdict, expired_without_effect},
    doc::ActionDoc,
    exit::Exit,
    failure::{About, Failure},
    identity::Who,
    invocation::Invocation,
    journal::{Found, Prepared},
    quantity::{Place, TariffVersion},
    render::output::Output,
};

/// What stood on the command line itself, and not in the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Typed {
    /// `--driver`
    pub driver: bool,
}

/// What every verb needs.
#[derive(Debug)]
pub(crate) struct Ctx {
    pub(crate) global: Global,
    pub(crate) typed: Typed,
    pub(crate) output: Output,
    interrupt: notice::Receiver<bool>,
    listener: AbortHandle,
}

impl Drop for Ctx {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// Does what the command line says, and says how it went.
pub async fn run(cli: Cli, typed: Typed) -> Exit {
    let output = Output::new(cli.global.json);
    let asked = asked_about(&cli);
    let ctx = Ctx::new(cli.global, typed, output);
    match dispatch(&ctx, cli.verb).await {
        Ok(exit) => exit,
        Err(failure) => {
            if output.is_json() && !matches!(failure, Failure::BrokenPipe) {
                let mut doc = ActionDoc::failed(&failure);
                doc.driver_id = doc.driver_id.or(asked.driver_id);
                doc.cp_id = doc.cp_id.or(asked.cp_id);
                doc.connector = doc.connector.or(asked.connector);
                doc.session_id = doc.session_id.or(asked.session_id);
                doc.request_id = doc.request_id.or(asked.request_id);
                // The exit code speaks of what was asked for, not of who reads it.
                let _ = output.document(&doc);
            }
            output.error(&failure);
            failure.exit()
        }
    }
}

async fn dispatch(ctx: &Ctx, verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::List => list::list(ctx).await,
        Verb::Start(args) => start::start(ctx, args).await,
        Verb::Stop(args) => stop::stop(ctx, args).await,
        Verb::Status(args) => status::status(ctx, args).await,
        Verb::Watch(args) => watch::watch(ctx, args).await,
        Verb::History(args) => history::history(ctx, args).await,
        Verb::Receipt { session } => receipt::receipt(ctx, &session).await,
        Verb::Run(args) => run::run(ctx, args).await,
        Verb::Serve { port, args } => serve::driver(ctx, port, args).await,
        Verb::Op { verb } => operate(ctx, verb).await.map_err(Failure::for_operators),
        Verb::Completions { shell } => completions::completions(shell),
        Verb::Manual { folder } => manual::manual(&folder),
        Verb::Doctor => doctor::doctor(ctx, doctor::Patient::Driver).await,
    }
}

async fn operate(ctx: &Ctx, verb: OpVerb) -> Result<Exit, Failure> {
    match verb {
        OpVerb::Cp { verb } => op::cp(ctx, verb).await,
        OpVerb::Session { verb } => op::session(ctx, verb).await,
        OpVerb::Driver { verb } => op::driver(ctx, verb).await,
        OpVerb::Tariff { verb } => op::tariff(ctx, verb).await,
        OpVerb::Audit(args) => audit::audit(ctx, args).await,
        OpVerb::Events(args) => events::events(ctx, args).await,
        OpVerb::Export(args) => export::export(ctx, args).await,
        OpVerb::Doctor => doctor::doctor(ctx, doctor::Patient::Operator).await,
        OpVerb::Serve { port, args } => serve::wall(ctx, port, args).await,
    }
}

/// What the line itself names, for the document of a failure that came before any request.
fn asked_about(cli: &Cli) -> About {
    let driver_id = cli.global.driver.as_ref().map(ToString::to_string);
    match &cli.verb {
        Verb::Start(args) => About {
            driver_id,
            cp_id: Some(args.place.cp_id.clone()),
            connector: args.connector.or(args.place.connector),
            request_id: args.repeat.request_id.as_ref().map(ToString::to_string),
            ..About::default()
        },
        Verb::Stop(args) => About {
            driver_id,
            session_id: args.session.clone(),
            request_id: args.repeat.request_id.as_ref().map(ToString::to_string),
            ..About::default()
        },
        Verb::Status(args) | Verb::Watch(args) => About {
            driver_id,
            session_id: args.session.clone(),
            ..About::default()
        },
        Verb::Receipt { session } => About {
            driver_id,
            session_id: Some(session.clone()),
            ..About::default()
        },
        Verb::List | Verb::History(_) | Verb::Run(_) | Verb::Serve { .. } => About {
            driver_id,
            ..About::default()
        },
        Verb::Op { .. } | Verb::Completions { .. } | Verb::Manual { .. } | Verb::Doctor => {
            About::default()
        }
    }
}

impl Ctx {
    fn new(global: Global, typed: Typed, output: Output) -> Self {
        let (tell, interrupt) = notice::channel(false);
        // Listens all the time, so that a Ctrl-C between two waits is not lost.
        let listener = tokio::spawn(async move {
            while tokio::signal::ctrl_c().await.is_ok() {
                tell.send_replace(true);
            }
        })
        .abort_handle();
        Self {
            global,
            typed,
            output,
            interrupt,
            listener,
        }
    }

    /// Waits for `work`, or for Ctrl-C: then `note` says how things stand.
    pub(crate) async fn unless_interrupted<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
        note: impl FnOnce() -> Failure,
    ) -> Result<T, Failure> {
        let mut interrupt = self.interrupt.clone();
        tokio::select! {
            biased;
            interrupted = interrupt.wait_for(|&yes| yes) => match interrupted {
                Ok(_) => Err(note()),
                // Only when the listener is gone, with the whole context.
                Err(_) => std::future::pending().await,
            },
            done = work => done,
        }
    }

    /// Waits until somebody wants an end: Ctrl-C, or SIGTERM from whoever started this.
    pub(crate) async fn told_to_stop(&self) {
        let mut interrupt = self.interrupt.clone();
        let terminated = async {
            #[cfg(unix)]
            if let Ok(mut signal) =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            {
                signal.recv().await;
                return;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // Fails only when the listener is gone, with the whole context.
            _ = interrupt.wait_for(|&yes| yes) => {}
            () = terminated => {}
        }
    }

    /// Waits for a question that changes nothing.
    pub(crate) async fn query<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.unless_interrupted(work, || Failure::Interrupted {
            message: "interrupted; nothing was changed".to_owned(),
            hint: String::new(),
            about: Box::default(),
        })
        .await
    }

    /// The driver: who is named, or whose the credentials file is.
    pub(crate) fn driver(&self) -> Result<DriverId, Failure> {
        if let Some(driver) = &self.global.driver {
            return Ok(driver.clone());
        }
        self.bearer("driver")?.ok_or_else(|| {
            Failure::usage(
                "say which driver you are",
                "--driver alice, or set EV_DRIVER; or give --credentials alice.creds",
            )
        })
    }

    /// The operator: who is named, or whose the credentials file is.
    pub(crate) fn operator(&self) -> Result<OperatorId, Failure> {
        if let Some(operator) = &self.global.operator {
            return Ok(operator.clone());
        }
        match self.bearer("operator")? {
            Some(operator) => Ok(operator),
            None => DEFAULT_OPERATOR
                .parse()
                .map_err(|e: InvalidId| Failure::usage(e.to_string(), "--operator olga")),
        }
    }

    /// Whose the credentials are, where they are one file.
    fn bearer<T: FromStr<Err = InvalidId>>(&self, role: &str) -> Result<Option<T>, Failure> {
        let path = self.credentials()?;
        if !path.is_file() {
            return Ok(None);
        }
        let credential = Credential::read(&path).map_err(|e| cannot_connect(&e.into()))?;
        let one = if role.starts_with('o') { "an" } else { "a" };
        if let Some(own) = credential.role().filter(|own| *own != role) {
            return Err(Failure::NotPermitted {
                message: format!(
                    "{} is the credential of {own} {}, and this is for {one} {role}",
                    path.display(),
                    credential.name()
                ),
                hint: format!("give {one} {role}'s with --credentials"),
            });
        }
        let id = credential.name().parse();
        id.map(Some).map_err(|e: InvalidId| {
            Failure::usage(
                format!("{} names nobody: {e}", path.display()),
                "`central enrol` writes credentials files",
            )
        })
    }

    /// A driver's desk.
    pub(crate) async fn driver_desk(&self) -> Result<Desk, Failure> {
        let who = Who::Driver(self.driver()?);
        self.desk(who).await
    }

    /// An operator's desk.
    pub(crate) async fn operator_desk(&self) -> Result<Desk, Failure> {
        self.desk(Who::Operator(self.operator()?)).await
    }

    async fn desk(&self, who: Who) -> Result<Desk, Failure> {
        let state_dir = self.state_dir()?;
        let access = self.opens(&who)?;
        let credential = access
            .check(who.role(), who.id())
            .map_err(|e| cannot_connect(&e))?;
        if let Some(warning) = ends_soon(&access, &credential, &who) {
            self.output.message(&warning);
        }
        let client = self.connect(&access, self.global.timeout).await?;
        Ok(Desk::new(
            client,
            who,
            &state_dir,
            self.invocation(),
            self.global.timeout,
        ))
    }

    /// What opens the server for somebody, if it is there.
    pub(crate) fn opens(&self, who: &Who) -> Result<Access, Failure> {
        let global = &self.global;
        let mut credentials = self.credentials()?;
        if !credentials.is_file() {
            credentials = credentials.join(format!("{}/{}.creds", who.role(), who.id()));
        }
        let ca = match &global.ca {
            Some(ca) => ca.clone(),
            None => config_dir("--ca")?.join("ca.crt"),
        };
        Tls::new(ca, global.certificate.clone(), global.key.clone())
            .map(|tls| Access {
                url: global.nats_url.clone(),
                credentials,
                tls,
            })
            .map_err(|e| cannot_connect(&e))
    }

    pub(crate) fn credentials(&self) -> Result<PathBuf, Failure> {
        match &self.global.credentials {
            Some(path) => Ok(path.clone()),
            None => Ok(config_dir("--credentials")?.join("creds")),
        }
    }

    /// Connects, and says when that takes long.
    pub(crate) async fn connect(
        &self,
        access: &Access,
        patience: Duration,
    ) -> Result<Client, Failure> {
        let url = &access.url;
        self.query(Client::connect(access, patience, |why| {
            self.output.message(&format!(
                "the NATS server at {url} cannot be reached ({why}); trying for {} s",
                patience.as_secs_f32().ceil()
            ));
        }))
        .await
    }

    /// Where requests are written down.
    pub(crate) fn state_dir(&self) -> Result<PathBuf, Failure> {
        self.global
            .state_dir
            .clone()
            .or_else(|| absolute("XDG_STATE_HOME").map(|home| home.join("ev-driver")))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state/ev-driver")))
            .ok_or_else(|| {
                Failure::usage(
                    "there is no place to write requests down: neither XDG_STATE_HOME nor HOME is set",
                    "name a folder with --state-dir",
                )
            })
    }

    /// How commands are typed here: with whatever is not the default.
    pub(crate) fn invocation(&self) -> Invocation {
        let global = &self.global;
        let state_dir = global.state_dir.as_deref().map(Path::to_string_lossy);
        let paths: Vec<_> = [
            ("--credentials", &global.credentials),
            ("--ca", &global.ca),
            ("--certificate", &global.certificate),
            ("--key", &global.key),
        ]
        .into_iter()
        .filter_map(|(option, path)| Some((option, path.as_deref()?.to_string_lossy())))
        .collect();
        let mut options = Vec::new();
        if global.nats_url != DEFAULT_NATS_URL {
            options.push(("--nats-url", global.nats_url.as_str()));
        }
        if let Some(driver) = &global.driver {
            options.push(("--driver", driver.as_str()));
        }
        if let Some(operator) = &global.operator {
            options.push(("--operator", operator.as_str()));
        }
        for (option, path) in &paths {
            options.push((option, path));
        }
        if let Some(state_dir) = &state_dir {
            options.push(("--state-dir", state_dir));
        }
        Invocation::new(options)
    }

    /// Says where a request comes from, if it is not new.
    pub(crate) fn tell_found(&self, prepared: &Prepared) {
        let id = prepared.command.stamp().0;
        match prepared.found {
            Found::New => {}
            Found::Named => self.output.message(&format!(
                "repeating request {id} as it was written down; that is safe"
            )),
            Found::Unanswered => self.output.message(&format!(
                "the same request was sent a moment ago and never answered: repeating {id}, \
                 so that it cannot take effect twice"
            )),
        }
    }

    /// Writes a wish down and sends it; Ctrl-C meanwhile tells how to find out what came of it.
    pub(crate) async fn carry_out<T: Verdict>(
        &self,
        desk: &Desk,
        wish: &Command,
        seen: Option<&TariffRef>,
        named: Option<&RequestId>,
    ) -> Result<T, Failure> {
        let prepared = desk.prepare(wish, seen, named)?;
        match self.submit(desk, &prepared).await {
            // So the unanswered request never took effect and never will: the wish is free again.
            Err(failure)
                if prepared.found == Found::Unanswered && expired_without_effect(&failure) =>
            {
                self.output
                    .message("that request had expired without effect: asking anew");
                let anew = desk.prepare(wish, seen, named)?;
                self.submit(desk, &anew).await
            }
            other => other,
        }
    }

    /// Sends what is written down.
    pub(crate) async fn submit<T: Verdict>(
        &self,
        desk: &Desk,
        prepared: &Prepared,
    ) -> Result<T, Failure> {
        self.tell_found(prepared);
        let submitted = self
            .unless_interrupted(desk.submit(prepared), || desk.given_up(&prepared.command))
            .await;
        // Of a refusal for it the hint says as much.
        if let (Ok(_), Some(clock)) = (&submitted, desk.wrong_clock()) {
            self.output.message(&clock);
        }
        submitted.map_err(|failure| at_the_new_price(failure, &prepared.command, desk))
    }
}

/// How to start all the same after the price has changed.
fn at_the_new_price(mut failure: Failure, command: &Command, desk: &Desk) -> Failure {
    if let Failure::Refused(refusal) = &mut failure
        && let Some(tariff) = &refusal.about.tariff
    {
        let wish = command.clone().unpriced();
        let line = desk
            .invocation()
            .anew(&wish.priced(Some(&(&**tariff).into())));
        let hint = &mut refusal.problem.hint;
        *hint = format!("{hint}; to start at that price: {line}");
    }
    failure
}

/// Limits as they go into a request; none when none was given.
pub(crate) fn limits_request(limits: &LimitArgs) -> Option<LimitsRequest> {
    (*limits != LimitArgs::default()).then(|| LimitsRequest {
        energy_wh: limits.limit_energy.map(|wh| wh.0),
        time_s: limits.limit_time.map(|s| s.0),
        cost: limits.limit_cost.map(|money| money.amount.to_string()),
        currency: limits
            .limit_cost
            .and_then(|money| money.currency)
            .map(|currency| currency.to_string()),
    })
}

/// `CP-001/1` and `--connector` say the same thing.
pub(crate) fn connector_of(place: &Place, option: Option<i64>) -> Result<Option<i64>, Failure> {
    match (place.connector, option) {
        (Some(a), Some(b)) if a != b => Err(Failure::usage(
            format!("{}/{a} and --connector {b} are two connectors", place.cp_id),
            "name one",
        )),
        (a, b) => Ok(a.or(b)),
    }
}

/// A start as it was asked for.
pub(crate) fn start_wish(
    place: &Place,
    connector: Option<i64>,
    limits: &LimitArgs,
    price: Option<&TariffVersion>,
) -> Result<Command, Failure> {
    let wish = Command::start(
        place.cp_id.clone(),
        connector_of(place, connector)?,
        limits_request(limits),
    );
    Ok(wish.priced(price.map(|price| &price.0)))
}

/// From so long before its end on, whoever uses a credential is told.
const ENDS_SOON_S: i64 = 7 * 24 * 3_600;

/// That a credential ends soon, and who has the next.
pub(crate) fn ends_soon(access: &Access, credential: &Credential, who: &Who) -> Option<String> {
    let expires_at_s = credential.expires_at_s()?;
    let left_s = expires_at_s - jiff::Timestamp::now().as_second();
    (0..ENDS_SOON_S).contains(&left_s).then(|| {
        format!(
            "{} expires in {}, at {}; take the next from whoever runs the system (`central enrol \
             {} {} --again`)",
            access.credentials.display(),
            match left_s / 3_600 {
                hours @ 0..48 => format!("{hours} h"),
                hours => format!("{} days", hours / 24),
            },
            shown_time(expires_at_s),
            who.role(),
            who.id()
        )
    })
}

/// A folder of the environment; a relative one is none.
fn absolute(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// Where credentials are unless somebody says otherwise.
fn config_dir(option: &str) -> Result<PathBuf, Failure> {
    absolute("XDG_CONFIG_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".config")))
        .map(|dir| dir.join("ev"))
        .ok_or_else(|| {
            Failure::usage(
                "there is no place to look for credentials: neither XDG_CONFIG_HOME nor HOME is set",
                format!("say where with {option}"),
            )
        })
}

/// The server was not even tried.
pub(crate) fn cannot_connect(error: &AccessError) -> Failure {
    let message = error.to_string();
    match error {
        AccessError::Url(_) | AccessError::InTheClear(_) | AccessError::Mixed => Failure::usage(
            message,
            "write for instance --nats-url nats://127.0.0.1:4222",
        ),
        AccessError::Whose { .. } => Failure::NotPermitted {
            message,
            hint:
                "nobody acts as somebody else: name who you are with --driver or --operator, and \
                   give that one's file with --credentials"
                    .to_owned(),
        },
        AccessError::Credential(_) => Failure::usage(
            message,
            "give yours with --credentials or EV_CREDENTIALS; whoever runs the system makes it with `central enrol`",
        ),
        AccessError::File { .. } | AccessError::Pem { .. } | AccessError::Half => Failure::usage(
            message,
            "give the ca.crt of the installation with --ca or EV_NATS_CA",
        ),
    }
}
