//! What the HTTP headers of a request must say: the same as its body, so that something between client and server can judge
//! a request by its headers.

use super::{Call, Request};
use crate::path::{KeyValue, ObjectPath};

/// A header that does not fit to the body; answer with the error's HTTP status and [`HeaderMismatch::cim_error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderMismatch {
    /// No method call.
    #[error("the header CIMOperation must be MethodCall")]
    Operation,
    /// Another method, or none.
    #[error("the header CIMMethod must name the method that the body calls")]
    Method,
    /// Another object, or none.
    #[error("the header CIMObject must name the namespace or object that the body names")]
    Object,
}

impl HeaderMismatch {
    /// Status of the HTTP answer.
    #[must_use]
    pub const fn http_status(&self) -> u16 {
        400
    }

    /// Value of the `CIMError` header of the HTTP answer.
    #[must_use]
    pub const fn cim_error(&self) -> &'static str {
        match self {
            Self::Operation => "unsupported-operation",
            Self::Method | Self::Object => "header-mismatch",
        }
    }
}

/// The prefix of the CIM headers of an `M-POST` request, `"73-"`, from its `Man` header
/// (`http://www.dmtf.org/cim/mapping/http/v1.0;ns=73`); `None` when that says anything else.
#[must_use]
pub fn extension_prefix(man: &str) -> Option<String> {
    let (uri, parameters) = man.split_once(';')?;
    if !uri
        .trim()
        .trim_matches('"')
        .starts_with("http://www.dmtf.org/cim/")
    {
        return None;
    }
    let ns = parameters.split(';').find_map(|p| p.trim().strip_prefix("ns"))?;
    let number = ns.trim().strip_prefix('=')?.trim();
    let two = number.len() == 2 && number.bytes().all(|b| b.is_ascii_digit());
    two.then(|| format!("{number}-"))
}

/// Compares the headers `CIMOperation`, `CIMMethod` and `CIMObject` to what the body says. Names compare without regard to
/// case, keys in any order; values may be percent-encoded.
///
/// # Errors
/// A header that is missing or says something else.
pub fn check_headers(
    request: &Request,
    operation: Option<&str>,
    method: Option<&str>,
    object: Option<&str>,
) -> Result<(), HeaderMismatch> {
    if !operation.is_some_and(|o| o.trim().eq_ignore_ascii_case("MethodCall")) {
        return Err(HeaderMismatch::Operation);
    }
    if !method.is_some_and(|m| unescaped(m).trim().eq_ignore_ascii_case(&request.head.name)) {
        return Err(HeaderMismatch::Method);
    }
    let object = object.map(unescaped).ok_or(HeaderMismatch::Object)?;
    let fits = match &request.call {
        Call::Intrinsic(_) => same_namespace(&object, &request.namespace),
        Call::Method { target, .. } => match ObjectPath::parse(&object) {
            Ok(path) => {
                let namespace = path.namespace.as_deref().unwrap_or_default();
                // The text of a reference can be written in several ways.
                let same = |(name, value): &(String, KeyValue)| match (path.name.key(name), value) {
                    (Some(found), KeyValue::Text(_)) => found == value,
                    (found, KeyValue::Reference(_)) => found.is_some(),
                    (None, KeyValue::Text(_)) => false,
                };
                same_namespace(namespace, &request.namespace)
                    && path.name.class.eq_ignore_ascii_case(&target.class)
                    && path.name.keys.len() == target.keys.len()
                    && target.keys.iter().all(same)
            }
            Err(_) => false,
        },
    };
    fits.then_some(()).ok_or(HeaderMismatch::Object)
}

fn same_namespace(a: &str, b: &str) -> bool {
    let slashes = |c: char| c == '/' || c.is_whitespace();
    a.trim_matches(slashes)
        .eq_ignore_ascii_case(b.trim_matches(slashes))
}

/// Percent-encoding resolved; what is none stays, and so does what would be no UTF-8.
fn unescaped(text: &str) -> String {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2)));
        let code = code.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        match code.filter(|_| *byte == b'%') {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
#[path = "headers_tests.rs"]
mod tests;
