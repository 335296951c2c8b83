//! A place to fail. Every operation passes a step before and after each thing that reaches the disk; tests make the n-th
//! one fail, which leaves the disk as a crash there would. In the program itself this is nothing.

use crate::error::Result;

/// Counts down to a failure.
#[derive(Clone, Default)]
pub(crate) struct Steps {
    #[cfg(test)]
    left: std::sync::Arc<std::sync::atomic::AtomicU64>,
    /// Manifests that were replaced.
    #[cfg(test)]
    manifests: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Steps {
    /// Fails when it is this step's turn.
    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the tests' version uses it")]
    pub(crate) fn pass(&self, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Fails when it is this step's turn.
    #[cfg(test)]
    pub(crate) fn pass(&self, name: &str) -> Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        if name == "after the manifest was replaced" {
            self.manifests.fetch_add(1, SeqCst);
        }
        let step = self.left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1));
        match step {
            Ok(1) => Err(lifeboat_engine::ports::store::StoreError::Io {
                what: format!("injected failure: {name}"),
                source: std::io::ErrorKind::Other.into(),
            }),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Lets `n - 1` steps pass and fails the next; 0 fails none.
    #[cfg(test)]
    pub(crate) fn fail_at(&self, n: u64) {
        self.left.store(n, std::sync::atomic::Ordering::SeqCst);
    }

    /// Whether the failure asked for is still to come.
    #[cfg(test)]
    pub(crate) fn pending(&self) -> bool {
        self.left.load(std::sync::atomic::Ordering::SeqCst) > 0
    }

    /// How many manifests were replaced.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> u64 {
        self.manifests.load(std::sync::atomic::Ordering::SeqCst)
    }
}
