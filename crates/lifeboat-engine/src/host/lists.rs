//! How long a list waits for what it shows. What is in it is the engine's.

use crate::contract::Refusal;
use crate::port::catalog::CatalogError;
use crate::work::calls::failed;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use std::time::Duration;

/// How long a list waits for one VM: a little longer than its actor waits for a look at it.
pub(crate) const LISTED: Duration = Duration::from_millis(450);

/// How long a caller waits for the catalog. A change that hangs on its disk has it meanwhile.
const CATALOG: Duration = Duration::from_secs(2);

/// What is asked of the catalog while a caller waits.
///
/// # Errors
/// `Failed` when the catalog says that it cannot, `Timeout` when it says nothing.
pub(crate) async fn in_time<T>(
    asked: impl Future<Output = Result<T, CatalogError>>,
    cannot: &str,
) -> Result<T, Refusal> {
    match tokio::time::timeout(CATALOG, asked).await {
        Ok(answer) => answer.map_err(|e| failed(cannot, &e)),
        Err(_) => Err(Refusal::new(
            ReturnCode::Timeout,
            format!(
                "{cannot}: the catalog did not answer within {} s",
                CATALOG.as_secs()
            ),
            hint::Look::StateDirectory,
        )),
    }
}
