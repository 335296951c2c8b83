//! The header of a request: what it is addressed to and how it wants to be answered.

use std::time::Duration;

use super::elements::{duration, number};
use super::fault::{Fault, FaultKind};
use super::uri::{Family, ResourceUri};
use super::{DEFAULT_NAMESPACE, MAX_ENVELOPE, MIN_ENVELOPE, ns, value};
use crate::path::{InstanceName, KeyValue};
use lifeboat_xml::{Element, Writer};

/// Longest message id and longest action that are repeated, bytes as XML.
const MAX_ECHO: usize = 1024;

/// What came in the header.
#[derive(Clone, Debug, PartialEq)]
pub struct Headers {
    /// Action, as written. Empty for Identify.
    pub action: String,
    /// Message id, byte for byte. Identify may have none.
    pub message_id: Option<String>,
    /// The class; its namespace is always filled in. Only Identify, the end of an enumeration or subscription and answers
    /// may have none.
    pub resource: Option<ResourceUri>,
    /// Keys, without `__cimnamespace` and, for the description of a class, without `ClassName`.
    pub selectors: Vec<(String, KeyValue)>,
    /// Options, with their values. None of them has to be obeyed.
    pub options: Vec<(String, String)>,
    /// Largest envelope of the answer, bytes, [`MIN_ENVELOPE`] to [`MAX_ENVELOPE`].
    pub max_envelope: usize,
    /// How long the client waits.
    pub timeout: Option<Duration>,
    /// The subscription that is meant (`e:Identifier`).
    pub identifier: Option<String>,
    /// What an answer answers.
    pub relates_to: Option<String>,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            action: String::new(),
            message_id: None,
            resource: None,
            selectors: Vec::new(),
            options: Vec::new(),
            max_envelope: MAX_ENVELOPE,
            timeout: None,
            identifier: None,
            relates_to: None,
        }
    }
}

impl Headers {
    /// Namespace and instance that the request is about. Without selectors it is the class, or its only instance.
    ///
    /// # Errors
    /// [`FaultKind::InvalidResourceUri`] when the request names no class.
    pub fn target(&self) -> Result<(&str, InstanceName), Fault> {
        let resource = self.resource.as_ref();
        let named = resource.and_then(|r| r.class.as_deref());
        let Some(class) = named else {
            let message = "the resource URI names no class, and this operation needs one";
            return Err(Fault::new(FaultKind::InvalidResourceUri, message));
        };
        let name = InstanceName {
            class: class.to_owned(),
            keys: self.selectors.clone(),
        };
        Ok((self.namespace(), name))
    }

    /// Namespace that the request is about.
    #[must_use]
    pub fn namespace(&self) -> &str {
        let namespace = self.resource.as_ref().and_then(|r| r.namespace.as_deref());
        namespace.unwrap_or(DEFAULT_NAMESPACE)
    }

    /// Family in which the request is answered.
    #[must_use]
    pub fn family(&self) -> Family {
        self.resource.as_ref().map_or(Family::Wmi, |r| r.family)
    }
}

/// The message id of an envelope, before anything else of it is looked at, so that even its faults can be related to it.
pub(super) fn message_id(header: Option<&Element>) -> Option<String> {
    let id = header?.child_in(ns::ADDRESSING, "MessageID")?.text();
    (repeatable(&id) && !id.trim().is_empty()).then_some(id)
}

fn repeatable(text: &str) -> bool {
    let mut w = Writer::new();
    w.text(text.get(..MAX_ECHO).unwrap_or(text));
    text.len() <= MAX_ECHO && w.len() <= MAX_ECHO
}

/// Refuses headers that must be understood and are not.
pub(super) fn understood(header: Option<&Element>) -> Result<(), Fault> {
    const ADDRESSING: [&str; 7] = [
        "To",
        "Action",
        "MessageID",
        "ReplyTo",
        "FaultTo",
        "From",
        "RelatesTo",
    ];
    const WSMAN: [&str; 8] = [
        "ResourceURI",
        "SelectorSet",
        "OptionSet",
        "MaxEnvelopeSize",
        "OperationTimeout",
        "Locale",
        "RequestEPR",
        "RequestTotalItemsCountEstimate",
    ];
    const EXTENSION: [&str; 6] = [
        "DataLocale",
        "SessionId",
        "OperationID",
        "SequenceId",
        "ActivityId",
        "CompressionType",
    ];
    for header in header
        .into_iter()
        .flat_map(Element::elements)
        .filter(|h| for_us(h))
    {
        let name = header.name.as_str();
        let known = match header.namespace.as_deref() {
            Some(ns::ADDRESSING) => ADDRESSING.contains(&name),
            Some(ns::WSMAN) => WSMAN.contains(&name),
            Some(ns::EXTENSION) => EXTENSION.contains(&name),
            Some(ns::EVENTING) => name == "Identifier",
            _ => false,
        };
        let must = header.attribute("mustUnderstand").map(str::trim);
        let must = must.is_some_and(|m| m == "1" || m.eq_ignore_ascii_case("true"));
        if must && !known {
            let message = format!("the header {name} must be understood and is not known here");
            return Err(Fault::new(FaultKind::MustUnderstand, message));
        }
    }
    Ok(())
}

/// Headers for other roles are none of our business.
fn for_us(header: &Element) -> bool {
    let role = |a: &&lifeboat_xml::Attribute| a.name == "role" && a.namespace.as_deref() == Some(ns::SOAP);
    match header.attributes.iter().find(role) {
        Some(role) => role.value.ends_with("/role/next") || role.value.ends_with("/role/ultimateReceiver"),
        None => true,
    }
}

/// What the headers say. `answer`: an answer to something this host sent, which needs no address for one of its own.
pub(super) fn decode(header: Option<&Element>, answer: bool) -> Result<Headers, Fault> {
    let find = |namespace: &str, name: &str| {
        let all = header.into_iter().flat_map(Element::elements);
        let mut all = all.filter(|h| h.is(namespace, name) && for_us(h));
        let first = all.next();
        match all.next() {
            None => Ok(first),
            Some(_) => {
                let message = format!("the header {name} is there twice");
                Err(Fault::new(FaultKind::InvalidHeader, message))
            }
        }
    };
    let addressing = |name: &str| find(ns::ADDRESSING, name);
    let trimmed = |e: &Element| e.text().trim().to_owned();
    let required = |name: &str| {
        let found = addressing(name)?.filter(|h| !h.text().trim().is_empty());
        found.ok_or_else(|| Fault::new(FaultKind::HeaderRequired, format!("the header {name} is missing")))
    };
    let action = trimmed(required("Action")?);
    if !repeatable(&action) {
        return Err(Fault::new(
            FaultKind::InvalidHeader,
            "the header Action is too long",
        ));
    }
    if !answer {
        required("To")?;
        required("MessageID")?;
        for name in ["ReplyTo", "FaultTo"] {
            reply_address(name, addressing(name)?)?;
        }
    }
    if addressing("MessageID")?.is_some_and(|m| !repeatable(&m.text())) {
        return Err(Fault::new(
            FaultKind::InvalidHeader,
            "the header MessageID is too long",
        ));
    }
    let wsman = |name: &str| find(ns::WSMAN, name);
    let resource = wsman("ResourceURI")?
        .map(|e| ResourceUri::parse(&e.text()))
        .transpose()?;
    let mut selectors = value::selectors(wsman("SelectorSet")?)?;
    let namespace = value::namespace(&mut selectors)?;
    Ok(Headers {
        action,
        message_id: message_id(header),
        resource: resource.map(|r| with_namespace(r, namespace)).transpose()?,
        selectors,
        options: options(wsman("OptionSet")?),
        max_envelope: max_envelope(wsman("MaxEnvelopeSize")?)?,
        timeout: wsman("OperationTimeout")?
            .map(|e| duration(&e.name, &e.text()))
            .transpose()?,
        identifier: find(ns::EVENTING, "Identifier")?.map(trimmed),
        relates_to: addressing("RelatesTo")?.map(Element::text),
    })
}

fn reply_address(name: &str, header: Option<&Element>) -> Result<(), Fault> {
    let Some(header) = header else {
        return match name {
            "FaultTo" => Ok(()),
            _ => Err(Fault::new(
                FaultKind::HeaderRequired,
                format!("the header {name} is missing"),
            )),
        };
    };
    let address = header.child_in(ns::ADDRESSING, "Address").map(Element::text);
    match address.as_deref().map(str::trim) {
        Some(ns::ANONYMOUS) => Ok(()),
        Some(_) => {
            let message = format!("answers go back where the request came from: {name} must be anonymous");
            Err(Fault::new(FaultKind::AddressingMode, message))
        }
        None => Err(Fault::new(
            FaultKind::HeaderRequired,
            format!("the header {name} has no Address"),
        )),
    }
}

fn with_namespace(resource: ResourceUri, selected: Option<String>) -> Result<ResourceUri, Fault> {
    let namespace = match (&resource.namespace, selected) {
        (Some(own), Some(other)) if !own.eq_ignore_ascii_case(&other) => {
            let message =
                format!("the resource URI says namespace {own}, the selector __cimnamespace says {other}");
            return Err(Fault::new(FaultKind::InternalError, message));
        }
        (Some(own), _) => own.clone(),
        (None, Some(selected)) => selected,
        (None, None) => DEFAULT_NAMESPACE.to_owned(),
    };
    Ok(ResourceUri {
        namespace: Some(namespace),
        ..resource
    })
}

fn options(set: Option<&Element>) -> Vec<(String, String)> {
    let options = set.into_iter().flat_map(Element::elements);
    let named = options.filter_map(|o| Some((o.attribute("Name")?.to_owned(), o.text().trim().to_owned())));
    named.collect()
}

fn max_envelope(header: Option<&Element>) -> Result<usize, Fault> {
    let Some(header) = header else {
        return Ok(MAX_ENVELOPE);
    };
    let size = number(header)?;
    if size < MIN_ENVELOPE {
        let message = format!("MaxEnvelopeSize is {size}; it must be at least {MIN_ENVELOPE}");
        Err(Fault::new(FaultKind::MinimumEnvelopeLimit, message))
    } else {
        Ok(size.min(MAX_ENVELOPE))
    }
}
