//! Answers. One that holds many items is made item by item, so that it is never in memory all at once: [`begin`], then each item
//! by [`Results::item`] or a function of `classes`, then [`end`]. An error can be sent before the beginning only: after
//! that a server can but break the connection, so it asks for the first item first.

use super::write;
use super::{Head, Intrinsic, Listing, Pulled, View};
use crate::error::CimError;
use crate::schema::{Method, Namespace};
use crate::value::{Instance, Value};
use lifeboat_xml::Writer;

/// How an instance is written in the answer to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// INSTANCE.
    Instance,
    /// VALUE.NAMEDINSTANCE.
    NamedInstance,
    /// INSTANCENAME.
    Name,
    /// VALUE.OBJECTWITHPATH.
    ObjectWithPath,
    /// OBJECTPATH.
    ObjectPath,
    /// VALUE.INSTANCEWITHPATH.
    InstanceWithPath,
    /// INSTANCEPATH.
    InstancePath,
    /// VALUE.OBJECTWITHPATH; VALUE.OBJECT when a query has left out keys.
    Queried,
}

impl Form {
    /// The form of an operation's instances; `None` for operations whose answer holds none.
    #[must_use]
    pub const fn of(operation: &Intrinsic) -> Option<Self> {
        match operation {
            Intrinsic::GetInstance { .. } => Some(Self::Instance),
            Intrinsic::CreateInstance { .. } => Some(Self::Name),
            Intrinsic::List(listing) => Some(match listing {
                Listing::Instances { .. } => Self::NamedInstance,
                Listing::Names { .. } => Self::Name,
                Listing::Associators { .. } | Listing::References { .. } => Self::ObjectWithPath,
                Listing::AssociatorNames { .. } | Listing::ReferenceNames { .. } => Self::ObjectPath,
                Listing::Query(_) => Self::Queried,
            }),
            Intrinsic::Open { listing, .. } => Some(Self::of_pulled(Pulled::of(listing))),
            Intrinsic::Pull { kind, .. } => Some(Self::of_pulled(*kind)),
            Intrinsic::CloseEnumeration { .. }
            | Intrinsic::GetClass { .. }
            | Intrinsic::EnumerateClasses { .. }
            | Intrinsic::EnumerateClassNames { .. }
            | Intrinsic::EnumerateQualifiers
            | Intrinsic::GetQualifier { .. }
            | Intrinsic::ModifyInstance { .. }
            | Intrinsic::DeleteInstance { .. } => None,
        }
    }

    const fn of_pulled(kind: Pulled) -> Self {
        match kind {
            Pulled::InstancesWithPath => Self::InstanceWithPath,
            Pulled::Paths => Self::InstancePath,
            Pulled::Instances => Self::Instance,
        }
    }
}

impl Pulled {
    /// The pull that continues this listing.
    #[must_use]
    pub const fn of(listing: &Listing) -> Self {
        match listing {
            Listing::Instances { .. } | Listing::Associators { .. } | Listing::References { .. } => {
                Self::InstancesWithPath
            }
            Listing::Names { .. } | Listing::AssociatorNames { .. } | Listing::ReferenceNames { .. } => {
                Self::Paths
            }
            Listing::Query(_) => Self::Instances,
        }
    }
}

impl Listing {
    /// What of each instance is wanted. For a query that names columns, the caller has to name them here.
    #[must_use]
    pub fn view(&self) -> View {
        match self {
            Self::Instances { view, .. } | Self::Associators { view, .. } | Self::References { view, .. } => {
                view.clone()
            }
            Self::Names { .. }
            | Self::AssociatorNames { .. }
            | Self::ReferenceNames { .. }
            | Self::Query(_) => View::default(),
        }
    }
}

/// Writes the items of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Results<'a> {
    /// Namespace of the instances.
    pub namespace: &'a Namespace,
    /// Name of this host, for paths.
    pub host: &'a str,
    /// How they are written.
    pub form: Form,
    /// What of them.
    pub view: &'a View,
}

impl Results<'_> {
    /// One item.
    #[must_use]
    pub fn item(&self, instance: &Instance) -> String {
        let w = &mut Writer::new();
        match self.form {
            Form::Instance => write::instance(w, self.namespace, instance, self.view),
            Form::Name => self.name(w, instance),
            Form::NamedInstance => {
                w.start("VALUE.NAMEDINSTANCE", &[]);
                self.name(w, instance);
                write::instance(w, self.namespace, instance, self.view);
                w.end("VALUE.NAMEDINSTANCE");
            }
            Form::ObjectWithPath => self.with_path(w, "VALUE.OBJECTWITHPATH", instance),
            Form::InstanceWithPath => self.with_path(w, "VALUE.INSTANCEWITHPATH", instance),
            Form::InstancePath => self.path(w, instance),
            Form::ObjectPath => {
                w.start("OBJECTPATH", &[]);
                self.path(w, instance);
                w.end("OBJECTPATH");
            }
            Form::Queried if self.has_keys(instance) => self.with_path(w, "VALUE.OBJECTWITHPATH", instance),
            Form::Queried => {
                w.start("VALUE.OBJECT", &[]);
                write::instance(w, self.namespace, instance, self.view);
                w.end("VALUE.OBJECT");
            }
        }
        std::mem::take(w).finish()
    }

    fn has_keys(&self, instance: &Instance) -> bool {
        let class = self.namespace.class(&instance.class);
        class.is_ok_and(|c| c.keys().all(|k| instance.get(&k.name).is_some()))
    }

    fn name(&self, w: &mut Writer, instance: &Instance) {
        write::instance_name(w, self.namespace, &self.namespace.name_of(instance));
    }

    fn path(&self, w: &mut Writer, instance: &Instance) {
        let name = self.namespace.name_of(instance);
        write::instance_path(w, self.namespace, self.host, &self.namespace.name, &name);
    }

    fn with_path(&self, w: &mut Writer, element: &str, instance: &Instance) {
        w.start(element, &[]);
        self.path(w, instance);
        write::instance(w, self.namespace, instance, self.view);
        w.end(element);
    }
}

/// Where a pulled enumeration stands after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page<'a> {
    /// There may be more under this context.
    More(&'a str),
    /// Everything has been given, and the context is gone.
    Last,
}

fn envelope(w: &mut Writer, head: &Head) -> &'static str {
    w.raw("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n");
    w.start("CIM", &[("CIMVERSION", "2.0"), ("DTDVERSION", "2.0")]);
    w.start("MESSAGE", &[("ID", &head.id), ("PROTOCOLVERSION", "1.0")]);
    w.start("SIMPLERSP", &[]);
    let element = if head.intrinsic {
        "IMETHODRESPONSE"
    } else {
        "METHODRESPONSE"
    };
    w.start(element, &[("NAME", &head.name)]);
    element
}

fn close(w: &mut Writer, element: &str) {
    for name in [element, "SIMPLERSP", "MESSAGE", "CIM"] {
        w.end(name);
    }
    w.raw("\n");
}

/// The beginning of an answer with items.
#[must_use]
pub fn begin(head: &Head) -> String {
    let mut w = Writer::new();
    envelope(&mut w, head);
    w.start("IRETURNVALUE", &[]);
    w.finish()
}

/// The end of what [`begin`] began; with a page for operations that open or pull.
#[must_use]
pub fn end(page: Option<Page<'_>>) -> String {
    let mut w = Writer::new();
    w.end("IRETURNVALUE");
    if let Some(page) = page {
        let (last, context) = match page {
            Page::More(context) => ("FALSE", Some(context)),
            Page::Last => ("TRUE", None),
        };
        w.start(
            "PARAMVALUE",
            &[("NAME", "EndOfSequence"), ("PARAMTYPE", "boolean")],
        );
        w.leaf("VALUE", &[], last);
        w.end("PARAMVALUE");
        w.start(
            "PARAMVALUE",
            &[("NAME", "EnumerationContext"), ("PARAMTYPE", "string")],
        );
        // Strict readers want a text, also where it means nothing.
        w.leaf("VALUE", &[], context.unwrap_or_default());
        w.end("PARAMVALUE");
    }
    close(&mut w, "IMETHODRESPONSE");
    w.finish()
}

/// A whole answer with one item.
#[must_use]
pub fn unit(head: &Head, item: &str) -> String {
    let mut whole = begin(head);
    whole.push_str(item);
    whole.push_str(&end(None));
    whole
}

/// A whole answer that says only that it was done.
#[must_use]
pub fn nothing(head: &Head) -> String {
    let mut w = Writer::new();
    let element = envelope(&mut w, head);
    close(&mut w, element);
    w.finish()
}

/// A whole answer that says why it was not done.
#[must_use]
pub fn error(head: &Head, error: &CimError) -> String {
    let mut w = Writer::new();
    let element = envelope(&mut w, head);
    let code = error.status.number().to_string();
    w.empty("ERROR", &[("CODE", &code), ("DESCRIPTION", &error.message)]);
    close(&mut w, element);
    w.finish()
}

/// A whole answer of a method: its return value, and the output parameters that have one. Null ones are left out: wbemcli
/// ends itself over a PARAMVALUE without a value.
#[must_use]
pub fn method_response(
    head: &Head,
    namespace: &Namespace,
    method: &Method,
    value: u32,
    out: &[(String, Value)],
) -> String {
    let mut w = Writer::new();
    let element = envelope(&mut w, head);
    w.start("RETURNVALUE", &[("PARAMTYPE", method.returns.name())]);
    w.leaf("VALUE", &[], &value.to_string());
    w.end("RETURNVALUE");
    for parameter in method.parameters.iter().filter(|p| p.output) {
        let given = out.iter().find(|(n, _)| n.eq_ignore_ascii_case(&parameter.name));
        if let Some((_, value)) = given {
            write::parameter(&mut w, namespace, parameter, value);
        }
    }
    close(&mut w, element);
    w.finish()
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
