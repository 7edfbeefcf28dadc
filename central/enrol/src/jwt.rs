//! The tokens that nats-server reads, as nats-io/jwt version 2 defines them; of its fields those
//! that are used here.

use std::collections::BTreeMap;

use data_encoding::{BASE32_NOPAD, BASE64URL_NOPAD};
use ev_contract::ids::CpId;
use nkeys::KeyPair;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha512_256};

use crate::roles::{Account, CP_TAG, CROSSINGS, Kind, Role};

/// How long a charge point may take to answer a command before the answer is no longer let
/// through. Central repeats a command after seconds.
const ANSWER_TTL_S: i64 = 60;
/// How long the server keeps a place for the answer to a question. Longer than any answer takes.
const RESPONSE_THRESHOLD_S: i64 = 60;
const NS_PER_S: i64 = 1_000_000_000;
/// The library's way to say "as much as the server gives".
const NO_LIMIT: i64 = -1;

#[derive(Serialize)]
struct Claims<'c> {
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    jti: String,
    iat: i64,
    iss: String,
    name: &'c str,
    sub: &'c str,
    nats: Value,
}

/// What a token says about whom.
pub(crate) struct About<'c> {
    pub(crate) name: &'c str,
    pub(crate) subject: &'c str,
    pub(crate) issued_at_s: i64,
    pub(crate) expires_at_s: Option<i64>,
    pub(crate) nats: Value,
}

/// Writes and signs a token.
pub(crate) fn sign(about: About<'_>, key: &KeyPair) -> Result<String, nkeys::error::Error> {
    let mut claims = Claims {
        exp: about.expires_at_s,
        jti: String::new(),
        iat: about.issued_at_s,
        iss: key.public_key(),
        name: about.name,
        sub: about.subject,
        nats: about.nats,
    };
    // The id is any digest of the content: servers compare it and do not recompute it.
    claims.jti = BASE32_NOPAD.encode(&Sha512_256::digest(json!(claims).to_string()));
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let signed = format!(
        "{}.{}",
        BASE64URL_NOPAD.encode(header.to_string().as_bytes()),
        BASE64URL_NOPAD.encode(json!(claims).to_string().as_bytes())
    );
    let signature = key.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", BASE64URL_NOPAD.encode(&signature)))
}

/// The operator: signing keys sign accounts, and only they do.
pub(crate) fn operator(signing: &str, system_account: &str) -> Value {
    json!({
        "type": "operator", "version": 2,
        "signing_keys": [signing],
        "system_account": system_account,
        "strict_signing_key_usage": true,
        "assert_server_version": ev_client::SERVER_MIN.to_string(),
    })
}

/// A credential: nothing but whose it is. What it may do stands in the role's template.
/// And, of a leaf, for which charge points; of the first central, that no ledger is there yet.
pub(crate) fn user(role: Role, account_id: &str, carried: &[CpId], may_begin: bool) -> Value {
    let mut tags = vec![format!("role:{role}")];
    tags.extend(carried.iter().map(|cp| format!("{CP_TAG}:{cp}")));
    if may_begin {
        tags.push(ev_client::FIRST_LEDGER_TAG.to_owned());
    }
    json!({
        "type": "user", "version": 2,
        "issuer_account": account_id,
        "tags": tags,
    })
}

/// An account: its limits, what crosses its border, its roles, and whose credentials are void.
pub(crate) fn account(
    account: Account,
    ids: &BTreeMap<Account, &str>,
    keys: &BTreeMap<Role, &str>,
    revocations: &BTreeMap<String, i64>,
) -> Value {
    let exports: Vec<Value> = CROSSINGS
        .iter()
        .filter(|c| c.owner == account)
        // Two accounts may use one export.
        .map(|c| match c.kind {
            Kind::Service => json!({
                "name": c.subject, "subject": c.subject, "type": "service",
                "response_type": "Singleton",
                "response_threshold": RESPONSE_THRESHOLD_S * NS_PER_S,
            }),
            Kind::Stream => json!({"name": c.subject, "subject": c.subject, "type": "stream"}),
        })
        .collect();
    let imports: Vec<Value> = CROSSINGS
        .iter()
        .filter(|c| c.user == account)
        .map(|c| {
            json!({
                "name": c.subject, "subject": c.subject, "account": ids[&c.owner],
                "type": match c.kind { Kind::Service => "service", Kind::Stream => "stream" },
                // The server writes into a header who asks.
                "share": c.share,
            })
        })
        .collect();
    let signing_keys: Vec<Value> = keys
        .iter()
        .filter(|(role, _)| role.account() == account)
        .map(|(role, key)| scope(*role, key))
        .collect();
    let jetstream = if account.has_jetstream() { NO_LIMIT } else { 0 };
    json!({
        "type": "account", "version": 2,
        "limits": {
            "subs": NO_LIMIT, "data": NO_LIMIT, "payload": NO_LIMIT,
            "imports": imports.len(), "exports": exports.len(), "wildcards": true,
            "disallow_bearer": true,
            "conn": account.connections_max(), "leaf": account.leaves_max(),
            "mem_storage": jetstream, "disk_storage": jetstream,
            "streams": jetstream, "consumer": jetstream,
        },
        "imports": imports,
        "exports": exports,
        "signing_keys": signing_keys,
        "revocations": revocations,
    })
}

fn scope(role: Role, key: &str) -> Value {
    let grants = role.grants();
    let mut template = json!({
        "pub": {"allow": grants.publish},
        "sub": {"allow": grants.subscribe},
        "subs": grants.subscriptions_max,
        "data": NO_LIMIT,
        "payload": grants.payload_max,
        "allowed_connection_types": grants.connects_as,
    });
    if grants.answers {
        template["resp"] = json!({"max": 1, "ttl": ANSWER_TTL_S * NS_PER_S});
    }
    json!({
        "kind": "user_scope", "key": key, "role": role.as_str(), "template": template,
    })
}
