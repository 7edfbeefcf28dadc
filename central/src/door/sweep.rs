//! Asking the servers who is connected: at the start, when something may have been missed, and
//! from time to time.

use std::{collections::HashMap, time::Duration};

use async_nats::Client;
use futures::StreamExt;
use serde_json::json;
use tokio::{sync::mpsc, time::timeout};

use super::events::Page;

/// Connections of one page: with their tokens some 400 KB.
const PAGE_ROWS: usize = 256;
/// Pages of one server: three times as many connections as it takes.
const PAGES_MAX: usize = 256;
/// No further server answers after so long a silence. They answer within milliseconds.
const SERVERS_WAIT: Duration = Duration::from_secs(1);
/// One page. A server that needs longer is asked again by the next sweep.
const PAGE_WAIT: Duration = Duration::from_secs(5);
/// Servers that are listened to. A cluster of ours has three.
const SERVERS_MAX: usize = 64;

/// Shows every connection of every server, page by page, some of them twice.
///
/// # Errors
/// When nobody could be asked, or a server has not shown all.
pub async fn sweep(client: Client, pages: mpsc::Sender<Page>) -> anyhow::Result<()> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let ask = |offset: usize| -> bytes::Bytes {
        json!({"auth": true, "sort": "cid", "limit": PAGE_ROWS, "offset": offset})
            .to_string()
            .into()
    };
    client
        .publish_with_reply("$SYS.REQ.SERVER.PING.CONNZ", inbox, ask(0))
        .await?;
    let mut more: HashMap<String, usize> = HashMap::new();
    while let Ok(Some(answer)) = timeout(SERVERS_WAIT, answers.next()).await {
        let Some(page) = Page::read(&answer.payload) else {
            continue;
        };
        if page.data.total > PAGE_ROWS && more.len() < SERVERS_MAX {
            more.insert(page.server.id.to_string(), page.data.total);
        }
        if pages.send(page).await.is_err() {
            return Ok(());
        }
    }
    for (server, total) in more {
        let subject = format!("$SYS.REQ.SERVER.{server}.CONNZ");
        // From the end: they are sorted by number, so that one that ends moves others to a page
        // that is still to be read, and one that begins is beyond those that were.
        for page in (0..total.div_ceil(PAGE_ROWS).min(PAGES_MAX)).rev() {
            let asked = client.request(subject.clone(), ask(page * PAGE_ROWS));
            let Ok(Ok(answer)) = timeout(PAGE_WAIT, asked).await else {
                anyhow::bail!("server {server} does not say who is connected");
            };
            if let Some(page) = Page::read(&answer.payload)
                && pages.send(page).await.is_err()
            {
                return Ok(());
            }
        }
    }
    Ok(())
}
