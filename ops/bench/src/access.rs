//! Credentials that exist in a bench and nowhere else: one per account that may be many at once.
//! A driver's own credential permits its own subject alone, and thousands of connections would be
//! another load than thousands of drivers.
//!
//! The accounts' tokens get one more signing key, without a role, and a service beside the shipped
//! ones that crosses in the same way: what an answer costs that nobody thinks about.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use async_nats::Client;
use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use ev_client::{Access, LinkEvent, Pauses, Tls};
use ev_contract::subjects::CP_LIVE_VALUES;
use ev_enrol::{Role, roles::Account};
use ev_testkit::Keys;
use nkeys::KeyPair;
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};

/// The name of all of them.
const NAME: &str = "bench";
/// What is echoed: `ev.v1.bench.<driver>.<bytes of the answer>`.
pub const ECHO: &str = "ev.v1.bench.*.*";
/// Longer than any run.
const LIFE_S: i64 = 24 * 3_600;
/// The server keeps a place for an answer so long, as for the shipped services.
const RESPONSE_THRESHOLD_NS: i64 = 60_000_000_000;
/// "As much as the server gives."
const NO_LIMIT: i64 = -1;

/// Keys of an installation with a bench in it.
#[derive(Debug, Clone)]
pub struct BenchKeys {
    /// The installation's.
    pub keys: Keys,
}

impl BenchKeys {
    /// Keys of their own, with credentials for CORE, DRIVERS and EDGE.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn new() -> Result<Self> {
        let keys = Keys::new()?;
        let realm = keys.realm()?;
        let operator = realm.account_signer()?;
        let signer = KeyPair::new_account();
        let conf = realm.auth_conf();
        let mut text = fs::read_to_string(&conf).context("read auth.conf")?;
        for account in [Account::Core, Account::Drivers, Account::Edge] {
            let id = realm.account_id(account);
            let former = text
                .lines()
                .find_map(|line| line.trim().strip_prefix(id)?.strip_prefix(": "))
                .with_context(|| format!("auth.conf has no account {account}"))?
                .to_owned();
            let mut claims = claims(&former)?;
            let nats = &mut claims["nats"];
            push(nats, "signing_keys", json!(signer.public_key()))?;
            match account {
                Account::Core => {
                    push(nats, "exports", echo_export())?;
                    nats["limits"]["exports"] = json!(NO_LIMIT);
                }
                Account::Drivers => {
                    push(
                        nats,
                        "imports",
                        echo_import(realm.account_id(Account::Core)),
                    )?;
                    nats["limits"]["imports"] = json!(NO_LIMIT);
                }
                _ => {}
            }
            let token = sign(claims, &operator)?;
            text = text.replace(&former, &token);
            credential(
                &path(&keys, account),
                account,
                realm.account_id(account),
                &signer,
            )?;
        }
        fs::write(&conf, text).context("write auth.conf")?;
        drop(realm);
        Ok(Self { keys })
    }

    /// Where the credential of an account lies.
    #[must_use]
    pub fn credential(&self, account: Account) -> PathBuf {
        path(&self.keys, account)
    }

    /// The folder of a role's credentials, with those of all these, who had none.
    ///
    /// # Errors
    /// When they cannot be made.
    pub fn enrol(&self, role: Role, names: &[String]) -> Result<PathBuf> {
        let mut realm = self.keys.realm()?;
        let (now_s, signer) = (now_s(), realm.signer(role)?);
        let drafts = names
            .iter()
            .map(|name| realm.draft(&signer, role, name, now_s + LIFE_S, now_s))
            .collect::<Result<Vec<_>, _>>()?;
        realm.commit(drafts, now_s)?;
        Ok(self.keys.creds_dir().join(role.as_str()))
    }

    /// A connection in an account.
    ///
    /// # Errors
    /// When the server does not let it in.
    pub async fn connect(&self, url: &str, account: Account) -> Result<Client> {
        connect(url, &self.credential(account), &self.keys.ca()).await
    }
}

/// A connection with a credential of the bench.
///
/// # Errors
/// When the server does not let it in.
pub async fn connect(url: &str, credentials: &Path, ca: &Path) -> Result<Client> {
    let access = Access {
        url: url.to_owned(),
        credentials: credentials.to_owned(),
        tls: Tls {
            ca: ca.to_owned(),
            identity: None,
        },
    };
    let (options, _) = access.options(Pauses::default(), |event| {
        // Where something was lost or forbidden, the figures are of something else.
        if event != LinkEvent::Up {
            eprintln!("bench: {event:?}");
        }
        std::future::ready(())
    })?;
    options
        .connect(access.servers()?)
        .await
        .with_context(|| format!("connect to {url} with {}", credentials.display()))
}

fn path(keys: &Keys, account: Account) -> PathBuf {
    keys.dir()
        .join(format!("bench-{}.creds", account.as_str().to_lowercase()))
}

fn push(nats: &mut Value, list: &str, what: Value) -> Result<()> {
    nats[list]
        .as_array_mut()
        .with_context(|| format!("an account's token has no {list}"))?
        .push(what);
    Ok(())
}

fn echo_export() -> Value {
    json!({
        "name": ECHO, "subject": ECHO, "type": "service", "response_type": "Singleton",
        "response_threshold": RESPONSE_THRESHOLD_NS,
    })
}

fn echo_import(core: &str) -> Value {
    json!({"name": ECHO, "subject": ECHO, "account": core, "type": "service", "share": true})
}

/// What the bench may do in an account: anything that the parts which it plays may.
fn grants(account: Account) -> (Vec<&'static str>, Vec<&'static str>) {
    let inbox = "_INBOX_bench.>";
    match account {
        Account::Core => (vec![">"], vec![">"]),
        Account::Drivers => (
            vec!["ev.v1.driver.*.*", ECHO],
            vec!["ev.v1.watch.*.*", CP_LIVE_VALUES, inbox],
        ),
        _ => (
            vec!["ev.v1.cp.>", "_R_.>", "bench.>", inbox],
            vec!["ev.v1.cp.*.cmd.*", "bench.>", inbox],
        ),
    }
}

fn credential(path: &Path, account: Account, id: &str, signer: &KeyPair) -> Result<()> {
    let key = KeyPair::new_user();
    let (publish, subscribe) = grants(account);
    let now_s = now_s();
    let token = sign(
        json!({
            "exp": now_s + LIFE_S, "iat": now_s, "name": NAME, "sub": key.public_key(),
            "nats": {
                "type": "user", "version": 2, "issuer_account": id,
                "pub": {"allow": publish}, "sub": {"allow": subscribe},
                "subs": NO_LIMIT, "data": NO_LIMIT, "payload": NO_LIMIT,
            },
        }),
        signer,
    )?;
    let seed = key.seed()?;
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    fs::write(path, text).context("write a credential")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}

fn claims(token: &str) -> Result<Value> {
    let claims = token.split('.').nth(1).context("a token has claims")?;
    Ok(serde_json::from_slice(
        &BASE64URL_NOPAD.decode(claims.as_bytes())?,
    )?)
}

/// Signs claims anew, in the signer's name.
fn sign(mut claims: Value, signer: &KeyPair) -> Result<String> {
    ensure!(claims.is_object(), "claims are an object");
    claims["iss"] = json!(signer.public_key());
    // Any digest of the content will do.
    claims["jti"] = json!(BASE32_NOPAD.encode(&Sha512_256::digest(claims.to_string())));
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let signed = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header.to_string().as_bytes()),
        BASE64URL_NOPAD.encode(claims.to_string().as_bytes())
    );
    let signature = signer.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

fn now_s() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok())
        .unwrap_or(0)
}
