//! Pages of what is new, for as long as somebody looks: `op audit --follow`, `op events --follow`.

use std::time::Duration;

use super::Ctx;
use crate::failure::Failure;

/// Between two questions for what is new. A person who follows does not notice.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// Whether it was said that nobody answers.
#[derive(Debug, Default)]
pub(super) struct Newer {
    told: bool,
}

impl Newer {
    /// The page, or nothing while nobody answers: central comes back, and what is asked for begins
    /// where the last page ended. Said once.
    pub(super) async fn page<T>(
        &mut self,
        ctx: &Ctx,
        asked: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<T>, Failure> {
        match ctx.query(async { Ok(asked.await) }).await? {
            Ok(page) => {
                self.told = false;
                Ok(Some(page))
            }
            Err(failure @ (Failure::Unknown { .. } | Failure::Unreachable { .. })) => {
                if !std::mem::replace(&mut self.told, true) {
                    ctx.output
                        .message(&format!("{}; going on", failure.message()));
                }
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Until the next question; Ctrl-C ends it.
    pub(super) async fn pause(&self, ctx: &Ctx) -> Result<(), Failure> {
        ctx.query(async {
            tokio::time::sleep(FOLLOW_EVERY).await;
            Ok(())
        })
        .await
    }
}
