use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A monitoring answer is a few kilobytes; more is not ours.
const MONITOR_ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// One page of a server's monitoring port, whatever its status.
pub(crate) async fn page(port: u16, path: &str) -> Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .context("connect to the monitoring port")?;
    // HTTP/1.0, so that the answer ends with the connection and is not chunked.
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await
        .with_context(|| format!("ask for {path}"))?;
    let mut answer = String::new();
    stream
        .take(MONITOR_ANSWER_BYTES_MAX)
        .read_to_string(&mut answer)
        .await
        .with_context(|| format!("read {path}"))?;
    let (_, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{path} answered without a body"))?;
    serde_json::from_str(body).with_context(|| format!("{path} answered no JSON"))
}
