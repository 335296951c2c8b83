//! Indications: the request that carries one to a listener, and the listener's answer. The HTTP request needs the headers
//! `CIMExport: MethodRequest` and `CIMExportMethod: ExportIndication`.

use super::View;
use super::values::shown;
use super::write;
use crate::schema::Namespace;
use crate::value::Instance;
use lifeboat_xml::{Writer, XmlError};

/// Why a listener's answer is not that it has taken the indication.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// No XML.
    #[error("the listener's answer is no XML: {0}")]
    Xml(#[from] XmlError),
    /// No answer to an indication.
    #[error("the listener's answer is not that to an indication: {0}")]
    NotValid(&'static str),
    /// It has not taken it.
    #[error("the listener has refused the indication with status {code}: {description}")]
    Refused {
        /// Its CIM status.
        code: u16,
        /// Its words, at most 80 characters of them.
        description: String,
    },
}

/// The request that carries `indication`, an instance of a class of `namespace`. The listener repeats `id`.
#[must_use]
pub fn export_request(id: &str, namespace: &Namespace, indication: &Instance) -> String {
    let open: [(&str, &[(&str, &str)]); 5] = [
        ("CIM", &[("CIMVERSION", "2.0"), ("DTDVERSION", "2.0")]),
        ("MESSAGE", &[("ID", id), ("PROTOCOLVERSION", "1.0")]),
        ("SIMPLEEXPREQ", &[]),
        ("EXPMETHODCALL", &[("NAME", "ExportIndication")]),
        ("EXPPARAMVALUE", &[("NAME", "NewIndication")]),
    ];
    let mut w = Writer::new();
    w.raw("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n");
    for (name, attributes) in open {
        w.start(name, attributes);
    }
    write::instance(&mut w, namespace, indication, &View::default());
    for (name, _) in open.iter().rev() {
        w.end(name);
    }
    w.raw("\n");
    w.finish()
}

/// Reads a listener's answer to the request with this `id`.
///
/// # Errors
/// Everything but that it has taken the indication.
pub fn export_reply(text: &str, id: &str) -> Result<(), ExportError> {
    let root = lifeboat_xml::parse(text)?;
    let message = root.child("MESSAGE").filter(|_| root.name == "CIM");
    let message = message.ok_or(ExportError::NotValid("it holds no MESSAGE"))?;
    if message.attribute("ID") != Some(id) {
        return Err(ExportError::NotValid("its ID is another one"));
    }
    let response = message
        .child("SIMPLEEXPRSP")
        .and_then(|r| r.child("EXPMETHODRESPONSE"));
    let response = response.ok_or(ExportError::NotValid("it holds no EXPMETHODRESPONSE"))?;
    match response.child("ERROR") {
        None => Ok(()),
        Some(error) => Err(ExportError::Refused {
            code: error
                .attribute("CODE")
                .and_then(|c| c.trim().parse().ok())
                .unwrap_or(1),
            description: shown(error.attribute("DESCRIPTION").unwrap_or_default()),
        }),
    }
}
