//! Resource URIs: the two families in which clients name a class, and the one for its description. Case does not matter.

use std::fmt;

use super::fault::{Fault, FaultKind};

const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/";
const DMTF: &str = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/";
const DMTF_ALL: &str = "http://schemas.dmtf.org/wbem/wscim/1/";
const METADATA: &str = "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/";

/// How a client names classes; it is answered likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The namespace is in the URI.
    Wmi,
    /// The namespace is the selector `__cimnamespace`.
    Dmtf,
    /// The description of a class. Namespace as in [`Family::Dmtf`], class in the URI or in the selector `ClassName`.
    Metadata,
}

/// A class, or all classes of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceUri {
    /// How it was written.
    pub family: Family,
    /// Namespace as written, with slashes. `None` while only a selector has it.
    pub namespace: Option<String>,
    /// Class as written; `None` is `*`.
    pub class: Option<String>,
}

impl ResourceUri {
    /// The URI of a class in a family.
    #[must_use]
    pub fn new(family: Family, namespace: &str, class: &str) -> Self {
        Self {
            family,
            namespace: Some(namespace.to_owned()),
            class: Some(class.to_owned()),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`FaultKind::InvalidResourceUri`] for URIs of neither family.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let text = text.trim();
        Self::read(text).ok_or_else(|| {
            let shown: String = text.chars().take(200).collect();
            let message = format!(
                "the resource URI \"{shown}\" names no class: use {WMI}NAMESPACE/CLASS, or {DMTF}CLASS with the selector __cimnamespace"
            );
            Fault::new(FaultKind::InvalidResourceUri, message)
        })
    }

    fn read(text: &str) -> Option<Self> {
        if let Some(rest) = after(text, WMI) {
            let (namespace, class) = rest.rsplit_once('/')?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/' | '-');
            if namespace.is_empty() || !namespace.chars().all(plain) {
                return None;
            }
            return Some(Self {
                family: Family::Wmi,
                namespace: Some(namespace.to_owned()),
                class: class_or_all(class).ok()?,
            });
        }
        let (family, class) = if let Some(rest) = after(text, METADATA) {
            (Family::Metadata, rest)
        } else if let Some(rest) = after(text, DMTF) {
            (Family::Dmtf, rest)
        } else {
            let rest = after(text, DMTF_ALL)?;
            (Family::Dmtf, if rest == "*" { rest } else { return None })
        };
        Some(Self {
            family,
            namespace: None,
            class: class_or_all(class).ok()?,
        })
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = self.class.as_deref().unwrap_or("*");
        match self.family {
            Family::Wmi => {
                let namespace = self.namespace.as_deref().unwrap_or(super::DEFAULT_NAMESPACE);
                write!(f, "{WMI}{namespace}/{class}")
            }
            Family::Dmtf if self.class.is_none() => write!(f, "{DMTF_ALL}*"),
            Family::Dmtf => write!(f, "{DMTF}{class}"),
            Family::Metadata => write!(f, "{METADATA}{class}"),
        }
    }
}

/// What follows a prefix that is written in any case.
pub(super) fn after<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let start = text.get(..prefix.len())?;
    if start.eq_ignore_ascii_case(prefix) {
        text.get(prefix.len()..)
    } else {
        None
    }
}

/// Text that names no class.
struct NoClass;

/// The class that is named; `None` for `*`, which means all of them.
fn class_or_all(text: &str) -> Result<Option<String>, NoClass> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text {
        "*" => Ok(None),
        name if !name.is_empty() && name.chars().all(plain) => Ok(Some(name.to_owned())),
        _ => Err(NoClass),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_are_read_and_written() {
        let v2 = Some("root/virtualization/v2");
        for (text, family, namespace, class) in [
            (
                "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/Msvm_ComputerSystem",
                Family::Wmi,
                v2,
                Some("Msvm_ComputerSystem"),
            ),
            (
                "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/*",
                Family::Wmi,
                v2,
                None,
            ),
            (
                "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/cimv2/Win32_OperatingSystem",
                Family::Wmi,
                Some("root/cimv2"),
                Some("Win32_OperatingSystem"),
            ),
            (
                "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/Msvm_ConcreteJob",
                Family::Dmtf,
                None,
                Some("Msvm_ConcreteJob"),
            ),
            ("http://schemas.dmtf.org/wbem/wscim/1/*", Family::Dmtf, None, None),
            (
                "http://schemas.dmtf.org/wbem/cim-xml/2/cim-schema/2/*",
                Family::Metadata,
                None,
                None,
            ),
        ] {
            let uri = ResourceUri::parse(text).unwrap();
            assert_eq!(
                (uri.family, uri.namespace.as_deref(), uri.class.as_deref()),
                (family, namespace, class)
            );
            assert_eq!(uri.to_string(), text);
            let shouted = text.to_ascii_uppercase();
            assert_eq!(ResourceUri::parse(&shouted).unwrap().family, family);
        }
        let all = ResourceUri::parse("http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/*").unwrap();
        assert_eq!((all.family, all.class), (Family::Dmtf, None));
    }

    #[test]
    fn other_uris_are_refused() {
        for text in [
            "",
            "*",
            "http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/X",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/virtualization/v2/A B",
            "http://schemas.microsoft.com/wbem/wsman/1/wmi/root/v\u{e9}/X",
            "http://schemas.dmtf.org/wbem/wscim/1/X",
            "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/",
            "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/A/B",
        ] {
            assert_eq!(
                ResourceUri::parse(text).unwrap_err().kind,
                FaultKind::InvalidResourceUri,
                "{text}"
            );
        }
    }
}
