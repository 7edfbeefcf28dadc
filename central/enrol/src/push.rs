//! Putting accounts in force on running servers.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use ev_client::{Access, LinkEvent, Pauses, Tls};
use futures::StreamExt;
use serde::Deserialize;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    realm::{AccountToken, Realm, RealmError},
    roles::Account,
};

/// How long a server may take to say that it is there, or that it has taken an account.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Servers answer within milliseconds of each other; after so long without another one all have.
const SILENCE: Duration = Duration::from_millis(500);
/// A push takes seconds; whoever lost the connection for longer pushes again.
const RECONNECTS_MAX: usize = 3;
/// How long to try to connect.
pub(crate) const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Where accounts are pushed.
#[derive(Debug, Clone)]
pub struct Servers {
    /// Their addresses.
    pub url: String,
    /// TLS.
    pub tls: Tls,
}

/// Why a push failed. What was to be pushed is written, and can be pushed again.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// No server can have been started with these keys.
    #[error("there are no certificates yet, so no server: `central enrol certificate` makes them")]
    NoCertificates,
    /// No connection.
    #[error("cannot connect to {url}: {why}")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// A question got no answer.
    #[error("{subject}: {why}")]
    Ask {
        /// Which question.
        subject: String,
        /// Why.
        why: String,
    },
    /// The keys.
    #[error(transparent)]
    Realm(#[from] RealmError),
    /// How to connect.
    #[error(transparent)]
    Access(#[from] ev_client::AccessError),
    /// A server did not take an account, or is silent.
    #[error("{account} is not in force on {server}: {why}")]
    NotTaken {
        /// Which account.
        account: String,
        /// Which server.
        server: String,
        /// Why.
        why: String,
    },
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
    #[serde(default)]
    data: Option<Data>,
    error: Option<Data>,
}

#[derive(Deserialize)]
struct Server {
    name: String,
}

#[derive(Deserialize, Default)]
struct Data {
    #[serde(default)]
    code: u32,
    #[serde(default, alias = "description")]
    message: String,
    jwt: Option<String>,
}

/// Puts all accounts in force on every server that answers. Returns the servers' names.
///
/// # Errors
/// [`PushError`].
pub async fn push(
    realm: &mut Realm,
    servers: &Servers,
    now_s: i64,
) -> Result<Vec<String>, PushError> {
    let tokens = realm.sign_accounts(now_s)?;
    let mut nats = connect(&realm.push_credentials(), servers, CONNECT_WAIT).await?;
    let known = ask(&nats, "$SYS.REQ.SERVER.PING", "", None).await?;
    let known: BTreeSet<String> = known.into_iter().map(|a| a.server.name).collect();
    for token in &tokens {
        let pushed = push_one(&nats, token, &known).await;
        if pushed.is_err() && token.account == Account::Sys {
            // It may have ended the very connection that brought it, and the answer with it. It
            // is pushed again with the credential that is good now.
            nats = connect(&realm.push_credentials(), servers, CONNECT_WAIT).await?;
            push_one(&nats, token, &known).await?;
        } else {
            pushed?;
        }
    }
    realm.forget_former_enrol()?;
    Ok(known.into_iter().collect())
}

async fn push_one(
    nats: &async_nats::Client,
    token: &AccountToken,
    servers: &BTreeSet<String>,
) -> Result<(), PushError> {
    let not_taken = |server: &str, why: &str| PushError::NotTaken {
        account: token.account.to_string(),
        server: server.to_owned(),
        why: why.to_owned(),
    };
    let answers = ask(
        nats,
        "$SYS.REQ.CLAIMS.UPDATE",
        &token.jwt,
        Some(servers.len()),
    )
    .await?;
    for answer in &answers {
        match answer.error.as_ref().or(answer.data.as_ref()) {
            Some(outcome) if outcome.code == 200 => {}
            Some(outcome) => return Err(not_taken(&answer.server.name, &outcome.message)),
            None => return Err(not_taken(&answer.server.name, "it says nothing")),
        }
    }
    let taken: BTreeSet<&str> = answers.iter().map(|a| a.server.name.as_str()).collect();
    match servers.iter().find(|s| !taken.contains(s.as_str())) {
        Some(silent) => Err(not_taken(silent, "it does not answer")),
        None => see_in_force(nats, token, servers.len()).await,
    }
}

/// A server says that it has taken a token before it has looked at who signed it. What counts is
/// what it goes by.
async fn see_in_force(
    nats: &async_nats::Client,
    token: &AccountToken,
    servers: usize,
) -> Result<(), PushError> {
    let subject = format!("$SYS.REQ.ACCOUNT.{}.INFO", token.id);
    for answer in ask(nats, &subject, "", Some(servers)).await? {
        // None: nobody of the account has connected there yet, so that it will be looked at then.
        if answer
            .data
            .and_then(|data| data.jwt)
            .is_some_and(|jwt| jwt != token.jwt)
        {
            return Err(PushError::NotTaken {
                account: token.account.to_string(),
                server: answer.server.name,
                why: "it does not trust who signed it; has it the present auth.conf?".into(),
            });
        }
    }
    Ok(())
}

/// Asks all servers; waits for so many, or until no more come.
async fn ask(
    nats: &async_nats::Client,
    subject: &str,
    payload: &str,
    count: Option<usize>,
) -> Result<Vec<Answer>, PushError> {
    let failed = |why: String| PushError::Ask {
        subject: subject.to_owned(),
        why,
    };
    let inbox = nats.new_inbox();
    let mut replies = nats
        .subscribe(inbox.clone())
        .await
        .map_err(|e| failed(e.to_string()))?;
    nats.publish_with_reply(subject.to_owned(), inbox, payload.to_owned().into())
        .await
        .map_err(|e| failed(e.to_string()))?;
    let deadline = Instant::now() + ANSWER_WAIT;
    let mut answers = Vec::new();
    while count.is_none_or(|count| answers.len() < count) {
        let wait = if count.is_none() && !answers.is_empty() {
            (Instant::now() + SILENCE).min(deadline)
        } else {
            deadline
        };
        let Ok(Some(message)) = timeout_at(wait, replies.next()).await else {
            break;
        };
        match serde_json::from_slice::<Answer>(&message.payload) {
            Ok(answer) => answers.push(answer),
            Err(e) => return Err(failed(format!("an answer cannot be read: {e}"))),
        }
    }
    if answers.is_empty() {
        return Err(failed("no server answers".into()));
    }
    Ok(answers)
}

/// Connects with the first of these credentials that the servers take.
pub(crate) async fn connect(
    credentials: &[PathBuf],
    servers: &Servers,
    wait: Duration,
) -> Result<async_nats::Client, PushError> {
    let mut why = String::from("there is no credential for it");
    for credentials in credentials {
        let access = Access {
            url: servers.url.clone(),
            credentials: credentials.clone(),
            tls: servers.tls.clone(),
        };
        let (options, credential) = access.options(Pauses::default(), |event| async move {
            if let LinkEvent::Denied(_) = event {
                eprintln!("central enrol: {event}");
            }
        })?;
        let options = options
            .name(format!("enrol {}", credential.name()))
            .max_reconnects(RECONNECTS_MAX);
        match timeout(wait, options.connect(access.servers()?)).await {
            Ok(Ok(nats)) => return Ok(nats),
            Ok(Err(e)) => why = access.trouble(&e).to_string(),
            Err(_) => why = format!("no answer within {} s", wait.as_secs()),
        }
    }
    Err(PushError::Connect {
        url: servers.url.clone(),
        why,
    })
}
