//! Listeners that speak CIM-XML: clients subscribe for them by making instances, and each indication goes there as an
//! ExportIndication of its own. The instances are made in [`crate::cim::subscriptions`]; messages are sent in
//! [`crate::delivery`].

use std::sync::Arc;
use std::time::Duration;

use lifeboat_cim::cimxml::{export_reply, export_request};
use lifeboat_cim::wql::{Columns, Select};
use lifeboat_cim::{CimError, Instance, InstanceName, Namespace, RawInstance, Status, Value};

use crate::cim::indications::{Indication, Indications};
use crate::cim::subscriptions::Begun;
use crate::cim::{Caller, VIRTUALIZATION};
use crate::delivery::{Client, Deliveries, DeliveryError, Destination, Over, Subscriber};

/// Makes and removes the instances by which clients subscribe, and begins deliveries.
pub(crate) struct Listeners {
    indications: Arc<Indications>,
    deliveries: Arc<Deliveries>,
}

impl Listeners {
    pub(crate) fn new(indications: Arc<Indications>, deliveries: Arc<Deliveries>) -> Self {
        Self {
            indications,
            deliveries,
        }
    }

    /// CreateInstance; a subscription's deliveries begin with it.
    pub(crate) async fn create(
        &self,
        caller: &Caller,
        namespace: &str,
        instance: &RawInstance,
    ) -> Result<Instance, CimError> {
        let client = self.deliveries.client();
        let reachable = async |url: String| match client.destination(&url).await {
            Ok(_) => Ok(()),
            Err(e) => Err(e.to_string()),
        };
        let (made, begun) = self
            .indications
            .create(caller, namespace, instance, reachable)
            .await?;
        if let Some(begun) = begun {
            self.begin(begun)?;
        }
        Ok(made)
    }

    /// Begins the deliveries of a subscription. Not async: if the caller's future were dropped here, the subscription would stay
    /// without deliveries and never end. Each delivery checks again whether the listener may be connected to.
    fn begin(&self, begun: Begun) -> Result<(), CimError> {
        let client = self.deliveries.client().clone();
        let failed = |e: DeliveryError| CimError::new(Status::Failed, e.to_string());
        let listener = Listener {
            destination: Destination::parse(&begun.destination).map_err(failed)?,
            client,
            namespace: self.indications.manager().schema().namespace(VIRTUALIZATION)?,
            context: begun.subscription.id.clone(),
            filter: begun.filter,
            select: begun.subscription.select().clone(),
        };
        self.deliveries.begin(begun.subscription, listener);
        Ok(())
    }

    /// DeleteInstance.
    pub(crate) fn delete(
        &self,
        caller: &Caller,
        namespace: &str,
        name: &InstanceName,
    ) -> Result<(), CimError> {
        self.indications.delete(caller, namespace, name)
    }
}

/// A listener of one subscription.
struct Listener {
    client: Arc<Client>,
    destination: Destination,
    namespace: &'static Namespace,
    /// `SequenceContext` of its indications, by which the listener tells subscriptions apart.
    context: String,
    filter: String,
    select: Select,
}

impl Listener {
    /// The indication as it is sent.
    fn document(&self, id: &str, indication: &Indication) -> String {
        let mut event = (*indication.instance).clone();
        if let Columns::Named(columns) = &self.select.columns {
            let first = |name: &str| {
                let mut names = columns.iter().filter_map(|c| c.names.first());
                names.any(|n| n.eq_ignore_ascii_case(name))
            };
            event.properties.retain(|(name, _)| first(name));
        }
        // Event classes of WMI do not have these properties.
        if event.class.starts_with("CIM_") {
            let number = Value::Signed(i64::try_from(indication.sequence).unwrap_or(i64::MAX));
            event.set("SequenceContext", Some(self.context.as_str().into()));
            event.set("SequenceNumber", Some(number));
            event.set("IndicationFilterName", Some(self.filter.as_str().into()));
        }
        export_request(id, self.namespace, &event)
    }
}

impl Subscriber for Listener {
    fn most(&self) -> usize {
        1
    }

    fn heartbeat(&self) -> Option<Duration> {
        None
    }

    async fn send(&self, indications: &[Indication]) -> Result<(), DeliveryError> {
        for indication in indications {
            let id = indication.sequence.to_string();
            let fields = [
                ("content-type", "application/xml; charset=\"utf-8\""),
                ("cimexport", "MethodRequest"),
                ("cimexportmethod", "ExportIndication"),
            ];
            let document = self.document(&id, indication);
            let answer = self.client.post(&self.destination, &fields, document).await?;
            export_reply(&answer, &id).map_err(|e| DeliveryError::Refused(e.to_string()))?;
        }
        Ok(())
    }

    async fn farewell(&self, _: Over) {}
}
