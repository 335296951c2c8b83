//! A JSON document that a person reads and whose last field is a digest of all text before it. A text without one is an older
//! release's and is believed as it is.

use serde::Serialize;

/// What stands between everything else and the digest.
const BEFORE: &str = ",\n  \"digest\": \"";

/// What stands after it.
const AFTER: &str = "\"\n}\n";

/// A document as text, with its digest.
pub(crate) fn text(document: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string_pretty(document)?;
    let body = text.strip_suffix("\n}").unwrap_or(&text);
    Ok(format!(
        "{body}{BEFORE}{}{AFTER}",
        blake3::hash(body.as_bytes()).to_hex()
    ))
}

/// The text without its digest; the reason when that is another one's.
pub(crate) fn checked(text: &str) -> std::result::Result<String, String> {
    let Some((body, rest)) = text.rsplit_once(BEFORE) else {
        return Ok(text.to_owned());
    };
    match rest.strip_suffix(AFTER) {
        Some(digest) if digest == blake3::hash(body.as_bytes()).to_hex().as_str() => {
            Ok(format!("{body}\n}}\n"))
        }
        Some(_) | None => Err("it is not what was written: its digest differs".to_owned()),
    }
}
