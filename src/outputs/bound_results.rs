//! Keeps the limits of the results that are not stored yet.

use crate::error::Error;
use crate::lines::BlockPool;
use crate::store::PendingResults;

/// Keeps the limits of `results`. While there is no room for more, it holds the room of `pool`, so
/// that reading stops. Never returns.
pub async fn bound_results(results: PendingResults, pool: BlockPool) -> Result<(), Error> {
    loop {
        results.watch().await;
        tracing::warn!(
            "results wait for the store and there is no room for more: reading stops until they \
             are stored; see --results-memory and --journal-max"
        );
        let paused = async {
            let _room = pool.pause().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = results.until_room() => {}
            () = paused => {}
        }
        tracing::info!("there is room for results again: reading goes on");
    }
}
