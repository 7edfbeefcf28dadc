//! Looking at a server without being anybody: does it speak, is it ours, until when is its
//! certificate good.

use std::{io, sync::Arc, time::Duration};

use async_nats::ServerAddr;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::{CONNECT_TIMEOUT, Tls, Trouble, root_cause, terms::not_after_s};

/// The server's first line has less than a kilobyte; in a large cluster it names many others.
const INFO_BYTES_MAX: u64 = 64 * 1024;
/// With what it begins.
const INFO: &[u8] = b"INFO ";
/// A server that speaks in the clear does so at once.
const IN_THE_CLEAR: Duration = Duration::from_secs(1);

/// What a server shows to anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Until when its certificate is good, in seconds since 1970, where that can be read.
    pub expires_at_s: Option<i64>,
}

impl Tls {
    /// Looks at one server: the same handshake as of a connection, up to the server's first line.
    ///
    /// # Errors
    /// What is in the way.
    pub async fn look(&self, server: &ServerAddr) -> Result<Seen, Trouble> {
        match timeout(CONNECT_TIMEOUT, self.shake(server)).await {
            Ok(seen) => seen,
            Err(_) => Err(Trouble::silent()),
        }
    }

    async fn shake(&self, server: &ServerAddr) -> Result<Seen, Trouble> {
        let config = self.client_config().await?;
        let stream = reach(server).await?;
        let host = ServerName::try_from(server.host().to_owned())
            .map_err(|_| Trouble::unreachable("a certificate cannot name this address"))?;
        let connector = TlsConnector::from(Arc::new(config));
        let stream = match connector.connect(host, stream).await {
            Ok(stream) => stream,
            Err(e) => return Err(self.no_tls(server, &e).await),
        };
        let expires_at_s = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| not_after_s(chain.first()?));
        if server.is_websocket() {
            // It speaks of NATS only to who asks for that.
            return Ok(Seen { expires_at_s });
        }
        // What the server thinks of our certificate follows the handshake.
        match begins_with_info(stream).await {
            Ok(true) => Ok(Seen { expires_at_s }),
            Ok(false) => Err(Trouble::no_server()),
            Err(e) => Err(self.trouble(&root_cause(&e))),
        }
    }

    /// Why there was no handshake. Who speaks no TLS is looked at once more.
    async fn no_tls(&self, server: &ServerAddr, error: &io::Error) -> Trouble {
        let cause = root_cause(error);
        if !speaks_no_tls(&cause) {
            return self.trouble(&cause);
        }
        let hears = async {
            let stream = reach(server).await.ok()?;
            begins_with_info(stream).await.ok()
        };
        match timeout(IN_THE_CLEAR, hears).await {
            Ok(Some(true)) => Trouble::in_the_clear(),
            Ok(_) | Err(_) => Trouble::no_server(),
        }
    }

    async fn client_config(&self) -> Result<ClientConfig, Trouble> {
        self.check().map_err(|e| Trouble::from(&e))?;
        let tls = self.clone();
        // Some small files, of which each may lie on a slow disk.
        tokio::task::spawn_blocking(move || tls.read())
            .await
            .map_err(|e| Trouble::unreachable(e.to_string()))?
            .map_err(|e| Trouble::unusable(format!("the certificates cannot be used: {e}")))
    }

    fn read(&self) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&self.ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        Ok(match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder.with_client_auth_cert(
                CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?,
                PrivateKeyDer::from_pem_file(key)?,
            )?,
        })
    }
}

async fn reach(server: &ServerAddr) -> Result<TcpStream, Trouble> {
    TcpStream::connect((server.host(), server.port()))
        .await
        .map_err(|e| Trouble::unreachable(e.to_string()))
}

async fn begins_with_info(stream: impl AsyncRead + Unpin) -> io::Result<bool> {
    let mut line = Vec::new();
    BufReader::new(stream.take(INFO_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .await?;
    Ok(line.starts_with(INFO))
}

/// The library's words for bytes that are no TLS.
pub(crate) fn speaks_no_tls(cause: &str) -> bool {
    ["InvalidContentType", "corrupt message"]
        .iter()
        .any(|words| cause.contains(words))
}
