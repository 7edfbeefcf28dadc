//! Certificates: an authority for servers and one for clients, and what they sign.
//!
//! ```text
//! DIR/tls/
//!   ca.key, ca.crt                  signs servers; every client needs ca.crt
//!   clients-ca.key, clients-ca.crt  signs clients, where servers ask for a certificate too
//!   NAME.key, NAME.crt              a server's, given to it
//!   clients/NAME.key, .crt          a client's
//! ```
//!
//! Two authorities, since whoever has a server's certificate may join the cluster, and a client's
//! must not do for that.
//!
//! While the authority of servers is changed, `ca.crt` holds two certificates: the new one's, and
//! after it the former's. `ca.key` is the new one's.

use std::path::{Path, PathBuf};

use async_nats::rustls::pki_types::{CertificateDer, pem::PemObject};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
};
use sha2::{Digest, Sha256};

use crate::{
    files::{PUBLIC, SECRET, failed, lock, make_dir, write},
    realm::{DAY_S, DAYS_MAX, RealmError},
};

/// How the files of the authority of servers are called.
const CA: &str = "ca";
/// How those of the authority of clients are.
const CLIENTS_CA: &str = "clients-ca";
/// Beside them lie those of servers, by other names.
const AUTHORITIES: [&str; 2] = [CA, CLIENTS_CA];
/// How long an authority is good: every client has to be given the next one.
const CA_DAYS: u32 = 3_650;
/// For how long a certificate is good unless somebody says otherwise.
pub const DAYS: u32 = 365;

/// A certificate that was written.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The authority that a peer must know.
    pub ca: PathBuf,
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Until when it is good.
    pub expires_at_s: i64,
}

/// Where the authority of servers is.
#[must_use]
pub fn ca(dir: &Path) -> PathBuf {
    dir.join("tls/ca.crt")
}

/// Where the authority of clients is.
#[must_use]
pub fn clients_ca(dir: &Path) -> PathBuf {
    dir.join("tls/clients-ca.crt")
}

/// Makes a server's certificate, for clients and for other servers of its cluster. It is called by
/// its first host.
///
/// # Errors
/// [`RealmError`].
pub fn server(
    dir: &Path,
    hosts: &[String],
    days: u32,
    now_s: i64,
) -> Result<Certificate, RealmError> {
    check_server(hosts, days)?;
    let name = hosts.first().map_or("", String::as_str);
    let folder = dir.join("tls");
    let usages = [
        ExtendedKeyUsagePurpose::ServerAuth,
        // Towards the other servers of a cluster.
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    make(dir, CA, &folder, name, hosts, &usages, days, now_s)
}

/// Makes a client's certificate.
///
/// # Errors
/// [`RealmError`].
pub fn client(dir: &Path, name: &str, days: u32, now_s: i64) -> Result<Certificate, RealmError> {
    check(&[name.to_owned()], days)?;
    let folder = dir.join("tls/clients");
    let usages = [ExtendedKeyUsagePurpose::ClientAuth];
    make(dir, CLIENTS_CA, &folder, name, &[], &usages, days, now_s)
}

/// Makes the next authority of servers. Whoever has the `ca.crt` that this leaves knows servers by
/// either. Returns its path.
///
/// # Errors
/// [`RealmError`]; [`RealmError::ChangeOfAuthority`] while one is under way.
pub fn next_authority(dir: &Path, now_s: i64) -> Result<PathBuf, RealmError> {
    let _lock = lock(dir)?;
    let path = ca(dir);
    let former = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
    if certificates_in(&former) > 1 {
        return Err(RealmError::ChangeOfAuthority {
            path: path.display().to_string(),
            why: "holds two authorities already; end that change first, with `central enrol \
                  certificate --forget-authority`",
        });
    }
    let key = KeyPair::generate()?;
    let next = self_signed(CA, &key, now_s)?;
    // Both certificates first: whatever either key has signed is known.
    write(&path, PUBLIC, &format!("{next}{former}"))?;
    write(&dir.join("tls/ca.key"), SECRET, &key.serialize_pem())?;
    Ok(path)
}

/// Leaves in `ca.crt` the authority alone whose key is here. Returns its path.
///
/// # Errors
/// [`RealmError`]; [`RealmError::ChangeOfAuthority`] where there is no other.
pub fn forget_former_authority(dir: &Path) -> Result<PathBuf, RealmError> {
    let _lock = lock(dir)?;
    let path = ca(dir);
    let both = std::fs::read_to_string(&path).map_err(failed("read", &path))?;
    let refused = |why| RealmError::ChangeOfAuthority {
        path: path.display().to_string(),
        why,
    };
    if certificates_in(&both) < 2 {
        return Err(refused("holds one authority; there is nothing to forget"));
    }
    let key_path = dir.join("tls/ca.key");
    let key = std::fs::read_to_string(&key_path).map_err(failed("read", &key_path))?;
    let name = authority_name(CA, &KeyPair::from_pem(&key)?);
    let present = both
        .split_inclusive(END)
        .find(|one| is_called(one, &name))
        .ok_or_else(|| refused("does not hold the authority whose key is tls/ca.key"))?;
    write(&path, PUBLIC, &format!("{}\n", present.trim()))?;
    Ok(path)
}

/// With which a certificate ends in PEM.
const END: &str = "-----END CERTIFICATE-----";

fn certificates_in(pem: &str) -> usize {
    pem.matches(END).count()
}

fn is_called(pem: &str, name: &str) -> bool {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .is_ok_and(|der| der.windows(name.len()).any(|part| part == name.as_bytes()))
}

/// Refuses what no certificate is made for.
///
/// # Errors
/// [`RealmError`].
pub fn check(names: &[String], days: u32) -> Result<(), RealmError> {
    if !(1..=DAYS_MAX).contains(&days) {
        return Err(RealmError::Days(days));
    }
    names.iter().try_for_each(|name| check_host(name))
}

/// Refuses what no server's certificate is made for.
///
/// # Errors
/// [`RealmError`]; [`RealmError::FirstHost`] when its files would be an authority's.
pub fn check_server(hosts: &[String], days: u32) -> Result<(), RealmError> {
    check(hosts, days)?;
    let is_authority = |host: &&String| AUTHORITIES.iter().any(|a| a.eq_ignore_ascii_case(host));
    match hosts.first().filter(is_authority) {
        Some(host) => Err(RealmError::FirstHost(host.clone())),
        None => Ok(()),
    }
}

/// It becomes a file's name as well.
fn check_host(host: &str) -> Result<(), RealmError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if host.is_empty() || host.starts_with('.') || !host.chars().all(plain) {
        return Err(RealmError::Host(host.to_owned()));
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "two callers, side by side above")]
fn make(
    dir: &Path,
    authority: &str,
    folder: &Path,
    name: &str,
    hosts: &[String],
    usages: &[ExtendedKeyUsagePurpose],
    days: u32,
    now_s: i64,
) -> Result<Certificate, RealmError> {
    make_dir(dir)?;
    let _lock = lock(dir)?;
    make_dir(&dir.join("tls"))?;
    make_dir(folder)?;
    let issuer = open(dir, authority, now_s)?;
    let expires_at_s = now_s + i64::from(days) * DAY_S;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = called(name);
    valid(&mut params, expires_at_s);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    let signed = params.signed_by(&key, &issuer)?;
    let key_path = folder.join(format!("{name}.key"));
    let certificate = folder.join(format!("{name}.crt"));
    write(&key_path, SECRET, &key.serialize_pem())?;
    write(&certificate, PUBLIC, &signed.pem())?;
    Ok(Certificate {
        ca: dir.join(format!("tls/{authority}.crt")),
        certificate,
        key: key_path,
        expires_at_s,
    })
}

/// Opens an authority, or makes it.
fn open(dir: &Path, name: &str, now_s: i64) -> Result<Issuer<'static, KeyPair>, RealmError> {
    let key_path = dir.join(format!("tls/{name}.key"));
    let certificate = dir.join(format!("tls/{name}.crt"));
    if key_path.exists() {
        let text = std::fs::read_to_string(&key_path).map_err(failed("read", &key_path))?;
        let key = KeyPair::from_pem(&text)?;
        return Ok(Issuer::new(authority(name, &key), key));
    }
    let key = KeyPair::generate()?;
    // The certificate first: a key that is there has one.
    write(&certificate, PUBLIC, &self_signed(name, &key, now_s)?)?;
    write(&key_path, SECRET, &key.serialize_pem())?;
    Ok(Issuer::new(authority(name, &key), key))
}

fn self_signed(name: &str, key: &KeyPair, now_s: i64) -> Result<String, RealmError> {
    let mut params = authority(name, key);
    valid(&mut params, now_s + i64::from(CA_DAYS) * DAY_S);
    Ok(params.self_signed(key)?.pem())
}

/// What follows from the key, so that nothing else need be read back.
fn authority(name: &str, key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = called(&authority_name(name, key));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// No two installations' are called the same: a certificate of another is plainly a stranger's.
fn authority_name(name: &str, key: &KeyPair) -> String {
    let digest = Sha256::digest(key.subject_public_key_info());
    format!("ev {name} {}", data_encoding::HEXLOWER.encode(&digest[..4]))
}

fn called(name: &str) -> DistinguishedName {
    let mut called = DistinguishedName::new();
    called.push(DnType::CommonName, name);
    called
}

/// From 1970 on: the clock of a cabinet that was without power is behind, and the connection is
/// where it learns the time.
fn valid(params: &mut CertificateParams, until_s: i64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let life = std::time::Duration::from_secs(u64::try_from(until_s).unwrap_or(0));
    params.not_before = epoch;
    params.not_after = epoch + life;
}
