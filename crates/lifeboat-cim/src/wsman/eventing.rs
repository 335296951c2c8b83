//! Subscriptions: what a client asks for, and where events go. Which events there are and who keeps them is not known here.

use std::time::Duration;

use super::elements::{duration, expires, max_elements};
use super::fault::{Fault, FaultKind, MODES};
use super::uri::ResourceUri;
use super::{Expires, filter, ns};
use crate::wql::Query;
use lifeboat_xml::{Element, Node, Writer};

/// Most bytes that are repeated to a receiver in the header of each event, before they are escaped.
const MAX_REFERENCE: usize = 8192;

/// A request to be notified of events.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// How events get there.
    pub mode: DeliveryMode,
    /// Where to; always there unless they are pulled.
    pub notify: Option<Endpoint>,
    /// Where to report that the subscription ends early.
    pub end: Option<Endpoint>,
    /// Which events; `None`: all of the class in the headers.
    pub filter: Option<Query>,
    /// Until when.
    pub expires: Option<Expires>,
    /// A sign of life this often.
    pub heartbeats: Option<Duration>,
    /// Most events in one delivery (Events), at least 1.
    pub max_elements: usize,
}

/// How events get to the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryMode {
    /// One envelope for each, not confirmed.
    Push,
    /// One envelope for each, confirmed.
    PushWithAck,
    /// Several in an envelope, confirmed.
    Events,
    /// The client fetches them like items of an enumeration.
    Pull,
}

impl DeliveryMode {
    /// Every mode.
    pub const ALL: &'static [Self] = &[Self::Push, Self::PushWithAck, Self::Events, Self::Pull];
}

/// Somewhere an envelope can be sent to.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// URL, as written.
    pub address: String,
    /// XML that belongs into the header of each envelope to it; complete with its namespaces.
    pub headers: String,
}

pub(super) fn subscribe(body: &Element, resource: Option<&ResourceUri>) -> Result<Subscribe, Fault> {
    let delivery = body.child_in(ns::EVENTING, "Delivery");
    let mode = match delivery.and_then(|d| d.attribute("Mode")).map(str::trim) {
        None | Some("") => DeliveryMode::Push,
        Some(uri) => {
            let known = MODES.iter().zip(DeliveryMode::ALL).find(|(m, _)| **m == uri);
            known.map(|(_, mode)| *mode).ok_or_else(|| {
                let shown: String = uri.chars().take(200).collect();
                Fault::new(
                    FaultKind::DeliveryMode,
                    format!("the delivery mode {shown} is not offered"),
                )
            })?
        }
    };
    let place = |e: Option<&Element>| e.map(endpoint).transpose();
    let notify = place(delivery.and_then(|d| d.child("NotifyTo")))?;
    if notify.is_none() && mode != DeliveryMode::Pull {
        let message = "the subscription does not say where events go: e:Delivery needs an e:NotifyTo";
        return Err(Fault::new(FaultKind::InvalidSubscription, message));
    }
    let of_delivery = |name: &str| delivery.and_then(|d| d.child(name));
    Ok(Subscribe {
        mode,
        notify: notify.filter(|_| mode != DeliveryMode::Pull),
        end: place(body.child_in(ns::EVENTING, "EndTo"))?,
        filter: match filter::find(body, ns::EVENTING) {
            Some(f) => Some(filter::query(f, resource, FaultKind::SubscriptionFilter)?),
            None => None,
        },
        expires: expires(
            body.child_in(ns::EVENTING, "Expires"),
            FaultKind::InvalidSubscriptionExpiration,
        )?,
        heartbeats: match of_delivery("Heartbeats") {
            Some(e) => Some(duration("Heartbeats", &e.text())?),
            None => None,
        },
        max_elements: max_elements(of_delivery("MaxElements"))?,
    })
}

fn endpoint(element: &Element) -> Result<Endpoint, Fault> {
    let wrong = |message: &str| Fault::new(FaultKind::InvalidSubscription, message);
    let address = element.child("Address").map(|a| a.text().trim().to_owned());
    let address = address.filter(|a| !a.is_empty() && a.len() <= 2048);
    let address =
        address.ok_or_else(|| wrong("e:NotifyTo and e:EndTo need an a:Address of at most 2048 bytes"))?;
    let parts = element.elements();
    let parts = parts.filter(|e| matches!(e.name.as_str(), "ReferenceParameters" | "ReferenceProperties"));
    let mut w = Writer::new();
    for part in parts.flat_map(Element::elements) {
        copy(&mut w, part)?;
    }
    Ok(Endpoint {
        address,
        headers: w.finish(),
    })
}

/// Writes a client's element again, each element with its own namespace, so that it can be put anywhere.
fn copy(w: &mut Writer, element: &Element) -> Result<(), Fault> {
    let plain = |name: &str| {
        let start = name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
        if start
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
        {
            Ok(())
        } else {
            let message = "a reference parameter has a name that XML does not allow";
            Err(Fault::new(FaultKind::InvalidSubscription, message))
        }
    };
    plain(&element.name)?;
    let mut declared: Vec<(String, &str)> = Vec::new();
    let name = match element.namespace.as_deref() {
        Some(namespace) => {
            declared.push(("xmlns:q".to_owned(), namespace));
            format!("q:{}", element.name)
        }
        None => element.name.clone(),
    };
    for (i, attribute) in element.attributes.iter().enumerate() {
        plain(&attribute.name)?;
        match attribute.namespace.as_deref() {
            Some("http://www.w3.org/XML/1998/namespace") => {
                declared.push((format!("xml:{}", attribute.name), &attribute.value));
            }
            Some(namespace) => {
                declared.push((format!("xmlns:q{i}"), namespace));
                declared.push((format!("q{i}:{}", attribute.name), &attribute.value));
            }
            None => declared.push((attribute.name.clone(), &attribute.value)),
        }
    }
    let size: usize = declared.iter().map(|(n, v)| n.len() + v.len()).sum();
    if w.len() + size + element.text().len() > MAX_REFERENCE {
        let message = "the reference parameters of an endpoint are larger than 8192 bytes";
        return Err(Fault::new(FaultKind::InvalidSubscription, message));
    }
    let attributes: Vec<(&str, &str)> = declared.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    w.start(&name, &attributes);
    for child in &element.children {
        match child {
            Node::Text(text) => w.text(text),
            Node::Element(child) => copy(w, child)?,
        }
    }
    w.end(&name);
    Ok(())
}
