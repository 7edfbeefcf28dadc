use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// How long a test waits for something that must happen. Far more than it ever
/// takes: a loaded machine must not fail a test, and a passing test never
/// spends it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Short enough to add nothing noticeable to a test, long enough not to keep a
/// core busy with asking.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Asks `probe` again and again until it says `true`.
///
/// # Errors
/// When `timeout` passes first. The message names `what` was awaited.
pub async fn wait_until(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> bool,
) -> Result<()> {
    wait_for(what, timeout, async || {
        if probe().await {
            Ok(())
        } else {
            Err(anyhow!("not yet"))
        }
    })
    .await
}

/// Calls `probe` again and again until it succeeds, and returns what it
/// returned. One call that hangs is cut off at the deadline too.
///
/// # Errors
/// When `timeout` passes first. The message names `what` was awaited and why
/// the last attempt was not enough.
pub async fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + timeout;
    let mut last = String::from("the first attempt never returned");
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => last = format!("{error:#}"),
            Err(_) => {}
        }
        if Instant::now() + POLL_EVERY >= deadline {
            return Err(anyhow!(
                "waited {timeout:?} in vain until {what}; last attempt: {last}"
            ));
        }
        sleep(POLL_EVERY).await;
    }
}
