//! Envelopes of answers. Bodies of instances and references come from [`item`](super::item); a server puts the two together.

use std::time::Duration;

use super::eventing::{DeliveryMode, Endpoint};
use super::headers::Headers;
use super::ns;
use super::uri::ResourceUri;
use crate::datetime::DateTime;
use lifeboat_xml::Writer;

/// Bytes of an answer to Enumerate or Pull that are not items, at most: what of a request is repeated is bounded, and the ids
/// and contexts of this server are short.
pub const OVERHEAD: usize = 4096;

/// The namespaces that every envelope declares. Clients that look names up by prefix know these letters.
const PREFIXES: [(&str, &str); 9] = [
    ("xmlns:s", ns::SOAP),
    ("xmlns:a", ns::ADDRESSING),
    ("xmlns:w", ns::WSMAN),
    ("xmlns:n", ns::ENUMERATION),
    ("xmlns:e", ns::EVENTING),
    ("xmlns:x", ns::TRANSFER),
    ("xmlns:b", ns::BINDING),
    ("xmlns:cim", ns::CIM),
    ("xmlns:xsi", ns::XSI),
];

/// An envelope to the sender of the request. `body` is XML with the prefixes of this module.
#[must_use]
pub fn envelope(action: &str, message_id: &str, relates_to: Option<&str>, body: &str) -> String {
    let mut w = Writer::new();
    w.start("s:Envelope", &PREFIXES);
    w.start("s:Header", &[]);
    w.leaf("a:To", &[], ns::ANONYMOUS);
    w.leaf("a:Action", &[], action);
    w.leaf("a:MessageID", &[], message_id);
    if let Some(relates_to) = relates_to {
        w.leaf("a:RelatesTo", &[], relates_to);
    }
    w.end("s:Header");
    finish(w, body)
}

fn finish(mut w: Writer, body: &str) -> String {
    w.start("s:Body", &[]);
    w.raw(body);
    w.end("s:Body");
    w.end("s:Envelope");
    w.finish()
}

/// The answer to a request with this body: an instance for Get and Put, nothing for Delete, Release and Unsubscribe, what
/// [`method_output`](super::Encoder::method_output) makes for a method, and the bodies below.
#[must_use]
pub fn response(request: &Headers, message_id: &str, body: &str) -> String {
    let action = format!("{}Response", request.action);
    envelope(&action, message_id, request.message_id.as_deref(), body)
}

/// The answer to Identify. `profiles` are URIs of the ways to authenticate, for those who did.
#[must_use]
pub fn identify(vendor: &str, version: &str, profiles: &[&str]) -> String {
    let mut w = Writer::new();
    w.start("s:Envelope", &PREFIXES);
    w.empty("s:Header", &[]);
    let mut body = Writer::new();
    body.start("wsmid:IdentifyResponse", &[("xmlns:wsmid", ns::IDENTITY)]);
    body.leaf("wsmid:ProtocolVersion", &[], ns::WSMAN);
    body.leaf("wsmid:ProductVendor", &[], vendor);
    body.leaf("wsmid:ProductVersion", &[], version);
    if !profiles.is_empty() {
        body.start("wsmid:SecurityProfiles", &[]);
        for profile in profiles {
            body.leaf("wsmid:SecurityProfileName", &[], profile);
        }
        body.end("wsmid:SecurityProfiles");
    }
    body.end("wsmid:IdentifyResponse");
    finish(w, &body.finish())
}

/// The body of an answer to Enumerate. `items`: those of an optimised one. `context`: `None` when there is nothing more.
#[must_use]
pub fn enumerate(items: Option<&str>, context: Option<&str>) -> String {
    let mut w = Writer::new();
    w.start("n:EnumerateResponse", &[]);
    w.leaf("n:EnumerationContext", &[], context.unwrap_or_default());
    if let Some(items) = items {
        w.start("w:Items", &[]);
        w.raw(items);
        w.end("w:Items");
        if context.is_none() {
            w.empty("w:EndOfSequence", &[]);
        }
    }
    w.end("n:EnumerateResponse");
    w.finish()
}

/// The body of an answer to Pull. The last one has no context: some clients would go on pulling.
#[must_use]
pub fn pull(items: &str, context: Option<&str>) -> String {
    let mut w = Writer::new();
    w.start("n:PullResponse", &[]);
    if let Some(context) = context {
        w.leaf("n:EnumerationContext", &[], context);
    }
    w.start("n:Items", &[]);
    w.raw(items);
    w.end("n:Items");
    if context.is_none() {
        w.empty("n:EndOfSequence", &[]);
    }
    w.end("n:PullResponse");
    w.finish()
}

/// The body of an answer to Subscribe. `url` is where this server answers; `context` is that of a pulled subscription.
#[must_use]
pub fn subscribed(
    url: &str,
    resource: &ResourceUri,
    identifier: &str,
    expires: Duration,
    context: Option<&str>,
) -> String {
    let mut w = Writer::new();
    w.start("e:SubscribeResponse", &[]);
    manager(&mut w, url, resource, identifier);
    w.leaf("e:Expires", &[], &iso(expires));
    if let Some(context) = context {
        w.leaf("n:EnumerationContext", &[], context);
    }
    w.end("e:SubscribeResponse");
    w.finish()
}

/// The body of an answer to Renew.
#[must_use]
pub fn renewed(expires: Duration) -> String {
    let mut w = Writer::new();
    w.start("e:RenewResponse", &[]);
    w.leaf("e:Expires", &[], &iso(expires));
    w.end("e:RenewResponse");
    w.finish()
}

fn iso(time: Duration) -> String {
    DateTime::interval(u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).to_iso()
}

fn manager(w: &mut Writer, url: &str, resource: &ResourceUri, identifier: &str) {
    w.start("e:SubscriptionManager", &[]);
    w.leaf("a:Address", &[], url);
    w.start("a:ReferenceParameters", &[]);
    w.leaf("w:ResourceURI", &[], &resource.to_string());
    w.leaf("e:Identifier", &[], identifier);
    w.end("a:ReferenceParameters");
    w.end("e:SubscriptionManager");
}

/// What this host sends by itself, to a receiver of events.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// Where to.
    pub to: &'a Endpoint,
    /// Its own id (`uuid:...`).
    pub message_id: &'a str,
    /// How events are delivered there.
    pub mode: DeliveryMode,
    /// What the subscription is for.
    pub resource: &'a ResourceUri,
}

impl Delivery<'_> {
    fn envelope(&self, action: &str, acknowledge: bool, body: &str) -> String {
        let mut w = Writer::new();
        w.start("s:Envelope", &PREFIXES);
        w.start("s:Header", &[]);
        w.leaf("a:To", &[], &self.to.address);
        w.start("a:ReplyTo", &[]);
        w.leaf("a:Address", &[], ns::ANONYMOUS);
        w.end("a:ReplyTo");
        w.leaf("a:Action", &[], action);
        w.leaf("a:MessageID", &[], self.message_id);
        w.leaf("w:ResourceURI", &[], &self.resource.to_string());
        if acknowledge {
            w.empty("w:AckRequested", &[]);
        }
        w.raw(&self.to.headers);
        w.end("s:Header");
        finish(w, body)
    }

    /// Events, each an instance. All modes but [`DeliveryMode::Events`] carry one; what is more would be lost, so the caller
    /// gives one.
    #[must_use]
    pub fn events(&self, events: &[String]) -> String {
        let event = format!("{}/Event", ns::WSMAN_ACTION);
        match self.mode {
            DeliveryMode::Push => self.envelope(&event, false, &events.concat()),
            DeliveryMode::PushWithAck => self.envelope(&event, true, &events.concat()),
            DeliveryMode::Events | DeliveryMode::Pull => {
                let mut w = Writer::new();
                w.start("w:Events", &[]);
                for one in events {
                    w.start("w:Event", &[("Action", &event)]);
                    w.raw(one);
                    w.end("w:Event");
                }
                w.end("w:Events");
                self.envelope(&format!("{}/Events", ns::WSMAN_ACTION), true, &w.finish())
            }
        }
    }

    /// A sign of life.
    #[must_use]
    pub fn heartbeat(&self) -> String {
        let heartbeat = format!("{}/Heartbeat", ns::WSMAN_ACTION);
        match self.mode {
            DeliveryMode::Push => self.envelope(&heartbeat, false, ""),
            DeliveryMode::PushWithAck => self.envelope(&heartbeat, true, ""),
            DeliveryMode::Events | DeliveryMode::Pull => {
                let mut w = Writer::new();
                w.start("w:Events", &[]);
                w.empty("w:Event", &[("Action", &heartbeat)]);
                w.end("w:Events");
                self.envelope(&format!("{}/Events", ns::WSMAN_ACTION), true, &w.finish())
            }
        }
    }

    /// The subscription has ended before its time. `url` and `identifier` are those of the answer to Subscribe.
    #[must_use]
    pub fn ended(&self, url: &str, identifier: &str, why: Ended, reason: &str) -> String {
        let mut w = Writer::new();
        w.start("e:SubscriptionEnd", &[]);
        manager(&mut w, url, self.resource, identifier);
        let status = match why {
            Ended::DeliveryFailure => "DeliveryFailure",
            Ended::ShuttingDown => "SourceShuttingDown",
            Ended::Canceling => "SourceCanceling",
        };
        w.leaf("e:Status", &[], &format!("{}/{status}", ns::EVENTING));
        w.leaf("e:Reason", &[("xml:lang", "en-US")], reason);
        w.end("e:SubscriptionEnd");
        self.envelope(&format!("{}/SubscriptionEnd", ns::EVENTING), false, &w.finish())
    }
}

/// Why a subscription has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Events could not be delivered.
    DeliveryFailure,
    /// This host stops.
    ShuttingDown,
    /// Anything else.
    Canceling,
}
