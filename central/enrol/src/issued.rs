//! What was issued: a small file for each name, so that the thousandth enrolment costs what the
//! first did.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ev_contract::ids::CpId;
use serde::{Deserialize, Serialize};

use crate::{
    files::{SECRET, failed, make_dir, read, remove, write_all},
    realm::{DAY_S, RealmError},
    roles::Role,
};

/// What has expired for longer than this is left out when somebody's file is written again, and no
/// longer revoked.
pub(crate) const KEPT_DAYS: i64 = 30;

/// A credential that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// As what.
    pub role: Role,
    /// To whom.
    pub name: String,
    /// Its public key.
    pub key: String,
    /// The role's key that signed it.
    pub signed_by: String,
    /// When.
    pub issued_at_s: i64,
    /// Until when it is good.
    pub expires_at_s: i64,
    /// Since when it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at_s: Option<i64>,
    /// For which charge points, where it is a leaf's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carries: Vec<CpId>,
}

impl Issued {
    /// Whether it opens anything.
    #[must_use]
    pub fn is_good(&self, now_s: i64) -> bool {
        self.revoked_at_s.is_none() && self.expires_at_s > now_s
    }
}

/// Everything about one name in one role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    /// Oldest first.
    pub credentials: Vec<Issued>,
    /// When central was last told of it, by the clock here. The next time is later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub announced_ms: Option<i64>,
}

fn folder(dir: &Path, role: Role) -> PathBuf {
    dir.join(format!("issued/{role}"))
}

fn path(dir: &Path, role: Role, name: &str) -> PathBuf {
    folder(dir, role).join(format!("{name}.json"))
}

/// What a name has; nothing when it never had anything.
pub(crate) fn load(dir: &Path, role: Role, name: &str) -> Result<Holder, RealmError> {
    let path = path(dir, role, name);
    let Some(text) = read(&path)? else {
        return Ok(Holder::default());
    };
    serde_json::from_str(&text).map_err(|e| RealmError::Content {
        path: path.display().to_string(),
        why: e.to_string(),
    })
}

/// Writes what names have.
pub(crate) fn store(
    dir: &Path,
    role: Role,
    holders: Vec<(String, Holder)>,
    now_s: i64,
) -> Result<(), RealmError> {
    make_dir(&folder(dir, role))?;
    let files = holders
        .into_iter()
        .map(|(name, mut holder)| {
            holder
                .credentials
                .retain(|one| one.expires_at_s + KEPT_DAYS * DAY_S > now_s);
            let path = path(dir, role, &name);
            match serde_json::to_string_pretty(&holder) {
                Ok(text) => Ok((path, text)),
                Err(e) => Err(RealmError::Content {
                    path: path.display().to_string(),
                    why: e.to_string(),
                }),
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    write_all(&files, SECRET)
}

/// Forgets a name.
pub(crate) fn forget(dir: &Path, role: Role, name: &str) -> Result<(), RealmError> {
    remove(&path(dir, role, name))
}

/// All names of a role, in order.
pub(crate) fn names(dir: &Path, role: Role) -> Result<Vec<String>, RealmError> {
    let folder = folder(dir, role);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("read", &folder)(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(failed("read", &folder))?.file_name();
        // What was left half written has another ending.
        let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
        names.extend(name.map(str::to_owned));
    }
    names.sort_unstable();
    Ok(names)
}
