//! The other end of the floor: answers whatever comes with as many bytes as it is asked for, in a
//! process of its own as central is, in the queue group and across the border as central does.

use std::path::PathBuf;

use anyhow::Result;
use bytes::Bytes;
use ev_contract::subjects::QUEUE_CENTRAL;
use futures::StreamExt;

use crate::access::{self, ECHO};

/// How to echo.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server
    #[arg(long)]
    url: String,
    /// A credential of CORE
    #[arg(long)]
    credentials: PathBuf,
    /// Who vouches for the server
    #[arg(long)]
    ca: PathBuf,
}

/// Longest answer.
const REPLY_BYTES_MAX: usize = 4_096;

/// What it logs when it listens.
pub const READY: &str = "bench echo listens";

/// Echoes until the connection is closed.
///
/// # Errors
/// When it cannot connect.
pub async fn run(args: Args) -> Result<()> {
    let client = access::connect(&args.url, &args.credentials, &args.ca).await?;
    let mut questions = client
        .queue_subscribe(ECHO, QUEUE_CENTRAL.to_owned())
        .await?;
    client.flush().await?;
    println!("{READY}");
    let answer = Bytes::from(vec![b'.'; REPLY_BYTES_MAX]);
    while let Some(question) = questions.next().await {
        // The verb is the size of the answer.
        let bytes = question.subject.rsplit('.').next().map(str::parse);
        if let (Some(reply), Some(Ok(bytes))) = (question.reply, bytes) {
            let answer = answer.slice(..REPLY_BYTES_MAX.min(bytes));
            client.publish(reply, answer).await?;
        }
    }
    Ok(())
}
