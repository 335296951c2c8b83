//! A passphrase and the source that it is asked of. Where it comes from, the command line knows; what it opens, `ca_key`.

use camino::Utf8Path;
use zeroize::Zeroizing;

/// Text that is overwritten when it is dropped.
pub type Passphrase = Zeroizing<String>;

/// Says the passphrase of a key file. Asked for only where the key is encrypted.
pub type Ask<'a> = &'a dyn Fn(&Utf8Path) -> std::io::Result<Passphrase>;

/// Characters of a passphrase, at least: a thief of the file can try as many as he has time for.
pub const PASSPHRASE_MIN: usize = 12;
