//! Envelopes into messages. Everything a client can get wrong ends in a fault that names it; sizes are bounded by the XML
//! reader and by the caller, who bounds the bytes.

use super::elements::{duration, expires, max_elements, number};
use super::eventing;
use super::fault::{Fault, FaultKind};
use super::headers::{self, Headers};
use super::uri::{Family, ResourceUri, after};
use super::{Enumerate, Message, Mode, Operation, Polymorphism, Pull, filter, ns, value};
use crate::path::KeyValue;
use crate::wql::Query;
use lifeboat_xml::Element;

/// Longest context or identifier, bytes; those of this server are much shorter.
const MAX_CONTEXT: usize = 512;

/// Reads an envelope.
///
/// # Errors
/// The fault to answer with; it is related to the message, if its id could be read.
pub fn decode(text: &str) -> Result<Message, Fault> {
    let root = lifeboat_xml::parse(text).map_err(|e| Fault::new(FaultKind::Malformed, e.to_string()))?;
    if !root.is(ns::SOAP, "Envelope") {
        return Err(match root.name.as_str() {
            "Envelope" => Fault::new(FaultKind::VersionMismatch, "the envelope is not one of SOAP 1.2"),
            _ => Fault::new(FaultKind::Malformed, "the document is no SOAP envelope"),
        });
    }
    let header = root.child_in(ns::SOAP, "Header");
    let message_id = headers::message_id(header);
    envelope(&root, header).map_err(|fault| fault.to(message_id.as_deref()))
}

fn envelope(root: &Element, header: Option<&Element>) -> Result<Message, Fault> {
    let Some(body) = root.child_in(ns::SOAP, "Body") else {
        return Err(Fault::new(FaultKind::Malformed, "the envelope has no s:Body"));
    };
    headers::understood(header)?;
    if body.child_in(ns::IDENTITY, "Identify").is_some() {
        let headers = Headers {
            message_id: headers::message_id(header),
            ..Headers::default()
        };
        return Ok(Message {
            headers,
            operation: Operation::Identify,
        });
    }
    let action = header.and_then(|h| h.child_in(ns::ADDRESSING, "Action"));
    let ack = action.is_some_and(|a| a.text().trim() == format!("{}/Ack", ns::WSMAN_ACTION));
    let mut headers = headers::decode(header, ack)?;
    let operation = operation(&mut headers, body, ack)?;
    Ok(Message { headers, operation })
}

fn operation(headers: &mut Headers, body: &Element, ack: bool) -> Result<Operation, Fault> {
    if ack {
        return match headers.relates_to.clone() {
            Some(relates_to) => Ok(Operation::Ack { relates_to }),
            None => Err(Fault::new(
                FaultKind::HeaderRequired,
                "the header RelatesTo is missing",
            )),
        };
    }
    let action = headers.action.clone();
    let verb = |base: &str| {
        after(&action, base)
            .and_then(|rest| rest.strip_prefix('/'))
            .map(str::to_owned)
    };
    let body = Body(body);
    if let Some(verb) = verb(ns::ENUMERATION) {
        return enumeration(headers, &verb, &body);
    }
    if let Some(verb) = verb(ns::EVENTING) {
        return eventing(headers, &verb, &body);
    }
    let Some(resource) = headers.resource.clone() else {
        return Err(Fault::new(
            FaultKind::InvalidResourceUri,
            "the header w:ResourceURI is missing",
        ));
    };
    if let Some(verb) = verb(ns::TRANSFER) {
        return match (verb.as_str(), resource.family) {
            ("Get", Family::Metadata) => class(headers, resource.class),
            ("Get", Family::Wmi | Family::Dmtf) => Ok(Operation::Get),
            ("Put", Family::Wmi | Family::Dmtf) => {
                Ok(Operation::Put(value::instance(body.only("an instance")?)?))
            }
            ("Create", Family::Wmi | Family::Dmtf) => {
                Ok(Operation::Create(value::instance(body.only("an instance")?)?))
            }
            ("Delete", Family::Wmi | Family::Dmtf) => Ok(Operation::Delete),
            _ => Err(unknown_action(&action)),
        };
    }
    let known = [ns::WSMAN_ACTION, ns::ADDRESSING, ns::SOAP]
        .iter()
        .any(|base| verb(base).is_some());
    let class_known = resource.class.is_some() && resource.family != Family::Metadata;
    let method = action
        .rsplit_once('/')
        .map(|(_, method)| method)
        .unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if known || !class_known || method.is_empty() || !method.chars().all(plain) {
        return Err(unknown_action(&action));
    }
    Ok(Operation::Invoke {
        method: method.to_owned(),
        arguments: body.arguments(method)?,
    })
}

fn unknown_action(action: &str) -> Fault {
    let shown: String = action.chars().take(200).collect();
    let message = format!("the action {shown} is not supported on this resource");
    Fault::new(FaultKind::ActionNotSupported, message)
}

/// The class whose description is asked for: in the URI, or a selector.
fn class(headers: &mut Headers, named: Option<String>) -> Result<Operation, Fault> {
    let class = class_name(headers, named)?.ok_or_else(|| {
        let message = "the selector ClassName is missing: it names the class to describe";
        Fault::new(FaultKind::InsufficientSelectors, message)
    })?;
    nothing_else(headers)?;
    Ok(Operation::GetClass { class })
}

/// The class that a request about classes names, if any: PowerShell sends an empty name for all of them.
fn class_name(headers: &mut Headers, named: Option<String>) -> Result<Option<String>, Fault> {
    let selected = value::take(&mut headers.selectors, "ClassName");
    match (named, selected) {
        (Some(class), _) => Ok(Some(class)),
        (None, Some(KeyValue::Text(class))) => Ok(Some(class.trim().to_owned()).filter(|c| !c.is_empty())),
        (None, Some(KeyValue::Reference(_))) => {
            let message = "the selector ClassName is the name of a class, not a reference";
            Err(Fault::new(FaultKind::SelectorTypeMismatch, message))
        }
        (None, None) => Ok(None),
    }
}

/// Refuses the selectors that are left.
fn nothing_else(headers: &Headers) -> Result<(), Fault> {
    match headers.selectors.first() {
        None => Ok(()),
        Some((name, _)) => {
            let message = format!(
                "the selector {name} is unknown: a class is described by ClassName and __cimnamespace"
            );
            Err(Fault::new(FaultKind::UnexpectedSelectors, message))
        }
    }
}

/// The body of an envelope.
struct Body<'a>(&'a Element);

impl<'a> Body<'a> {
    /// Its only element.
    fn only(&self, expected: &str) -> Result<&'a Element, Fault> {
        let mut elements = self.0.elements();
        match (elements.next(), elements.next()) {
            (Some(only), None) => Ok(only),
            (first, _) => {
                let what = if first.is_some() {
                    "more than one element"
                } else {
                    "nothing"
                };
                let message = format!("the body holds {what}, where {expected} is expected");
                Err(Fault::new(FaultKind::SchemaValidation, message))
            }
        }
    }

    /// Its only element, of this name in any namespace.
    fn named(&self, name: &str) -> Result<&'a Element, Fault> {
        let only = self.only(name)?;
        if only.name == name {
            Ok(only)
        } else {
            let shown: String = only.name.chars().take(100).collect();
            let message = format!("the body holds {shown}, where {name} is expected");
            Err(Fault::new(FaultKind::SchemaValidation, message))
        }
    }

    /// Arguments of a method. No element at all is no argument.
    fn arguments(&self, method: &str) -> Result<Vec<(String, crate::Raw)>, Fault> {
        if self.0.elements().next().is_none() {
            return Ok(Vec::new());
        }
        let input = self.only(method)?;
        let name = input.name.strip_suffix("_INPUT").unwrap_or(&input.name);
        if name.eq_ignore_ascii_case(method) {
            value::members(input)
        } else {
            let shown: String = input.name.chars().take(100).collect();
            let message = format!("the body holds {shown}, where {method}_INPUT is expected");
            Err(Fault::new(FaultKind::SchemaValidation, message))
        }
    }
}

fn enumeration(headers: &mut Headers, verb: &str, body: &Body<'_>) -> Result<Operation, Fault> {
    match verb {
        "Enumerate" => enumerate(headers, body.named("Enumerate")?),
        "Pull" => {
            let pull = body.named("Pull")?;
            let time = |e: &Element| duration(&e.name, &e.text());
            Ok(Operation::Pull(Pull {
                context: context(pull)?,
                max_elements: max_elements(pull.child("MaxElements"))?,
                max_characters: pull.child("MaxCharacters").map(number).transpose()?,
                max_time: pull.child("MaxTime").map(time).transpose()?,
            }))
        }
        "Release" => {
            let context = context(body.named("Release")?)?;
            Ok(Operation::Release { context })
        }
        _ => Err(unknown_action(&headers.action)),
    }
}

fn enumerate(headers: &mut Headers, body: &Element) -> Result<Operation, Fault> {
    let Some(resource) = headers.resource.clone() else {
        return Err(Fault::new(
            FaultKind::InvalidResourceUri,
            "the header w:ResourceURI is missing",
        ));
    };
    let filter = filter::find(body, ns::ENUMERATION);
    match resource.family {
        Family::Wmi | Family::Dmtf => instances(&resource, filter, body).map(Operation::Enumerate),
        Family::Metadata if filter.is_some() => {
            let message = "an enumeration of classes takes no filter; the selector ClassName narrows it";
            Err(Fault::new(FaultKind::CannotProcessFilter, message))
        }
        Family::Metadata => {
            let below = class_name(headers, resource.class)?;
            nothing_else(headers)?;
            let enumerate = requested(None, body)?;
            Ok(Operation::EnumerateClasses { below, enumerate })
        }
    }
}

fn instances(resource: &ResourceUri, filter: Option<&Element>, body: &Element) -> Result<Enumerate, Fault> {
    let filter = match filter {
        Some(f) => Some(filter::query(f, Some(resource), FaultKind::FilterDialect)?),
        None => None,
    };
    if filter.is_none() && resource.class.is_none() {
        let message = "all classes at once cannot be enumerated: name a class, or give a filter";
        return Err(Fault::new(FaultKind::InvalidResourceUri, message));
    }
    requested(filter, body)
}

/// How the items of an enumeration are wanted.
fn requested(filter: Option<Query>, body: &Element) -> Result<Enumerate, Fault> {
    let text = |name: &str| body.child(name).map(|e| e.text().trim().to_owned());
    let mode = match text("EnumerationMode").as_deref() {
        None | Some("" | "EnumerateObject") => Mode::Object,
        Some("EnumerateEPR") => Mode::Reference,
        Some("EnumerateObjectAndEPR") => Mode::Both,
        Some(other) => {
            let shown: String = other.chars().take(100).collect();
            let message = format!("the enumeration mode {shown} is not offered");
            return Err(Fault::new(FaultKind::EnumerationMode, message));
        }
    };
    let polymorphism = match text("PolymorphismMode").as_deref() {
        Some("ExcludeSubClassProperties") => Polymorphism::Exclude,
        Some("None") => Polymorphism::None,
        _ => Polymorphism::Include,
    };
    Ok(Enumerate {
        filter,
        optimised: body.child("OptimizeEnumeration").is_some(),
        max_elements: max_elements(body.child("MaxElements"))?,
        mode,
        polymorphism,
        expires: expires(body.child("Expires"), FaultKind::InvalidExpiration)?,
    })
}

fn eventing(headers: &Headers, verb: &str, body: &Body<'_>) -> Result<Operation, Fault> {
    let identifier = || {
        let id = headers
            .identifier
            .clone()
            .filter(|i| !i.is_empty() && i.len() <= MAX_CONTEXT);
        id.ok_or_else(|| {
            let message = "the header e:Identifier is missing: it says which subscription is meant";
            Fault::new(FaultKind::InvalidSubscription, message)
        })
    };
    match verb {
        "Subscribe" => {
            let subscribe = body.named("Subscribe")?;
            eventing::subscribe(subscribe, headers.resource.as_ref()).map(Operation::Subscribe)
        }
        "Unsubscribe" => Ok(Operation::Unsubscribe {
            identifier: identifier()?,
        }),
        "Renew" => Ok(Operation::Renew {
            identifier: identifier()?,
            expires: expires(
                body.named("Renew")?.child("Expires"),
                FaultKind::InvalidSubscriptionExpiration,
            )?,
        }),
        _ => Err(unknown_action(&headers.action)),
    }
}

fn context(body: &Element) -> Result<String, Fault> {
    let context = body
        .child("EnumerationContext")
        .map(|c| c.text().trim().to_owned());
    match context {
        Some(context) if !context.is_empty() && context.len() <= MAX_CONTEXT => Ok(context),
        Some(_) => {
            let message = "the enumeration context is none of this server's";
            Err(Fault::new(FaultKind::InvalidEnumerationContext, message))
        }
        None => Err(Fault::new(
            FaultKind::SchemaValidation,
            "the body has no n:EnumerationContext",
        )),
    }
}
