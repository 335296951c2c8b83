//! A monitor as those see it who put commands together: whose connection it is, and what carries it, does not matter to them.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use serde_json::Value;

use super::client::{Qmp, QmpError};

/// A monitor that takes commands. [`Qmp`] is one over a socket of ours.
#[async_trait]
pub trait Monitor: Debug + Send + Sync {
    /// Runs one command and returns what it returned. `arguments` is an object, or `null` for none.
    ///
    /// # Errors
    /// See [`QmpError`]. Dropping the future abandons the answer, not the command.
    async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError>;

    /// [`Monitor::execute`] of a command that takes an open file, such as `add-fd` or `getfd`.
    ///
    /// # Errors
    /// See [`QmpError`].
    async fn execute_with_file(
        &self,
        command: &str,
        arguments: Value,
        file: OwnedFd,
    ) -> Result<Value, QmpError>;
}

#[async_trait]
impl Monitor for Qmp {
    async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        Self::execute(self, command, arguments).await
    }

    async fn execute_with_file(
        &self,
        command: &str,
        arguments: Value,
        file: OwnedFd,
    ) -> Result<Value, QmpError> {
        Self::execute_with_file(self, command, arguments, file).await
    }
}
