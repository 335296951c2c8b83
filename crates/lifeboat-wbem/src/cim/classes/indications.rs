//! The service that delivers indications, and the filters, destinations and subscriptions that clients have made, as the
//! registry has them.

use lifeboat_cim::{Instance, InstanceName, ObjectPath};

use super::names::SYSTEM;
use super::{ClassView, Make, element, link, well};
use crate::cim::facts::HostParts;
use crate::cim::registry::{self, DESTINATION, FAILURE_TIME, FILTER, SUBSCRIPTION};
use crate::cim::subscription::IN_ALL;
use crate::cim::{HostFacts, INTEROP};

pub(super) const CLASSES: &[ClassView] = &[
    at(FILTER, Make::Host(|_, of| of.filters.clone())),
    at(DESTINATION, Make::Host(|_, of| of.destinations.clone())),
    at(SUBSCRIPTION, Make::Host(|_, of| of.subscriptions.clone())),
    at(SERVICE, Make::Host(service)),
    at(CAPABILITIES, Make::Host(capabilities)),
    at("CIM_ElementCapabilities", Make::Host(capable)),
];

const SERVICE: &str = "CIM_IndicationService";
const CAPABILITIES: &str = "CIM_IndicationServiceCapabilities";
const ID: &str = "Lifeboat:Indications";
/// Attempts to deliver an indication after the first.
pub(crate) const RETRIES: u16 = 3;
/// Seconds before the first of them; each further one waits twice as long as the one before.
pub(crate) const RETRY_AFTER: u32 = 1;

const fn at(class: &'static str, make: Make) -> ClassView {
    ClassView {
        namespace: INTEROP,
        class,
        make,
    }
}

fn service_keys(host: &HostFacts) -> [(&str, &str); 4] {
    [
        ("SystemCreationClassName", SYSTEM),
        ("SystemName", &host.name),
        ("CreationClassName", SERVICE),
        ("Name", ID),
    ]
}

fn service(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = "Indications";
    let service = well(element(SERVICE, name, "Delivers indications to listeners", name))
        .with("EnabledState", 2_u16)
        .with("RequestedState", 12_u16)
        .with("EnabledDefault", 2_u16)
        .with("Started", true)
        .with("FilterCreationEnabled", true)
        .with("DeliveryRetryAttempts", RETRIES)
        .with("DeliveryRetryInterval", RETRY_AFTER)
        .with("SubscriptionRemovalAction", 2_u16)
        .with(
            "SubscriptionRemovalTimeInterval",
            u32::try_from(FAILURE_TIME.as_secs()).unwrap_or(u32::MAX),
        );
    let keys = service_keys(host);
    vec![keys.into_iter().fold(service, |i, (n, v)| i.with(n, v))]
}

fn capabilities(_: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let name = "Indications";
    let most = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let mut capabilities = element(CAPABILITIES, name, "Nothing of it can be set", name)
        .with("InstanceID", ID)
        .with("MaxListenerDestinations", most(registry::IN_ALL))
        .with("MaxActiveSubscriptions", most(IN_ALL))
        .with("SubscriptionsPersisted", false);
    for fixed in [
        "FilterCreationEnabledIsSettable",
        "DeliveryRetryAttemptsIsSettable",
        "DeliveryRetryIntervalIsSettable",
        "SubscriptionRemovalActionIsSettable",
        "SubscriptionRemovalTimeIntervalIsSettable",
    ] {
        capabilities.set(fixed, Some(false.into()));
    }
    vec![capabilities]
}

fn capable(host: &HostFacts, _: &HostParts) -> Vec<Instance> {
    let path = |class, keys: &[(&str, &str)]| ObjectPath::new(INTEROP, InstanceName::new(class, keys));
    let service = ("ManagedElement", path(SERVICE, &service_keys(host)));
    let capabilities = ("Capabilities", path(CAPABILITIES, &[("InstanceID", ID)]));
    vec![link("CIM_ElementCapabilities", service, capabilities)]
}
