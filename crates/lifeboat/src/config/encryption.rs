//! The section `[encryption]`: where the key comes from. Reading it, and making directories readable with it, is
//! [`crate::encryption`]'s.

use camino::Utf8PathBuf;
use serde::Deserialize;

/// Encryption of what this host keeps of guests.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Encryption {
    /// The file that has the key.
    pub(crate) key_file: Option<Utf8PathBuf>,
    /// The program that writes it to standard output, and its arguments.
    pub(crate) key_command: Option<Vec<String>>,
}

impl Encryption {
    /// The key with a value that cannot be, and why.
    pub(crate) fn mistake(&self) -> Option<(&'static str, &'static str)> {
        match (&self.key_file, &self.key_command) {
            (Some(file), None) if !file.is_absolute() => {
                Some(("encryption.key_file", "write an absolute path"))
            }
            (None, Some(command)) if command.first().is_none_or(String::is_empty) => Some((
                "encryption.key_command",
                "write a program and its arguments as a list",
            )),
            (Some(_), None) | (None, Some(_)) => None,
            (Some(_), Some(_)) => Some(("encryption", "name key_file or key_command, not both")),
            (None, None) => Some(("encryption", "name key_file or key_command")),
        }
    }
}
