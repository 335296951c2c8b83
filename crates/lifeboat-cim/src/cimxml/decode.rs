//! Requests: the envelope, and which operation takes which parameters.

use super::parameters::{Parameters, invalid, missing};
use super::values::{self, ShapeError, required, shown};
use super::{Call, Head, Intrinsic, Listing, Pulled, Request, RequestError};
use crate::error::{CimError, Status};
use lifeboat_xml::Element;

/// Reads a request.
///
/// # Errors
/// Text that is no request (answer with the error's HTTP status), or a request for an operation that does not exist here or
/// with wrong parameters (answer with [`super::error`]).
pub fn decode(text: &str) -> Result<Request, RequestError> {
    let root = lifeboat_xml::parse(text)?;
    let message = message(&root)?;
    let id = valid(required(message, "ID"))?.to_owned();
    let call = request_of(message)?;
    let head = |intrinsic| -> Result<Head, RequestError> {
        let name = valid(required(call, "NAME"))?.to_owned();
        if name.len() > 256 || id.len() > 1024 {
            not_valid("a NAME of more than 256 bytes, or an ID of more than 1024")
        } else {
            Ok(Head {
                id: id.clone(),
                name,
                intrinsic,
            })
        }
    };
    match call.name.as_str() {
        "IMETHODCALL" => intrinsic_call(call, head(true)?),
        "METHODCALL" => method_call(call, head(false)?),
        other => not_valid(format!("{} in SIMPLEREQ", shown(other))),
    }
}

fn not_valid<T>(what: impl Into<String>) -> Result<T, RequestError> {
    Err(RequestError::NotValid(what.into()))
}

fn valid<T>(result: Result<T, ShapeError>) -> Result<T, RequestError> {
    result.map_err(|e| RequestError::NotValid(e.0))
}

/// MESSAGE within CIM, both of versions we speak. A version that is not said is taken for the usual one.
fn message(root: &Element) -> Result<&Element, RequestError> {
    let speaks = |e: &Element, attribute: &str, major: &str| match e.attribute(attribute) {
        Some(version) if !version.trim().starts_with(major) => Err(shown(version)),
        _ => Ok(()),
    };
    if root.name != "CIM" {
        return not_valid(format!("{} where CIM belongs", shown(&root.name)));
    }
    speaks(root, "CIMVERSION", "2.").map_err(RequestError::CimVersion)?;
    speaks(root, "DTDVERSION", "2.").map_err(RequestError::DtdVersion)?;
    let Some(message) = root.child("MESSAGE") else {
        return not_valid("CIM without MESSAGE");
    };
    speaks(message, "PROTOCOLVERSION", "1.").map_err(RequestError::ProtocolVersion)?;
    Ok(message)
}

/// The call in the only request of a message.
fn request_of(message: &Element) -> Result<&Element, RequestError> {
    let mut requests = message.elements();
    let (first, second) = (requests.next(), requests.next());
    match first.filter(|_| second.is_none()) {
        Some(request) => match request.name.as_str() {
            "SIMPLEREQ" => {}
            "MULTIREQ" => return Err(RequestError::MultipleRequests),
            "SIMPLEEXPREQ" | "MULTIEXPREQ" => return Err(RequestError::NoListener),
            other => return not_valid(format!("{} in MESSAGE", shown(other))),
        },
        None => return not_valid("a MESSAGE must hold one SIMPLEREQ"),
    }
    // A correlator may stand before the call, and says nothing to us.
    let mut calls = first
        .into_iter()
        .flat_map(Element::elements)
        .filter(|e| e.name != "CORRELATOR");
    match (calls.next(), calls.next()) {
        (Some(call), None) => Ok(call),
        _ => not_valid("a SIMPLEREQ must hold one call"),
    }
}

fn intrinsic_call(call: &Element, head: Head) -> Result<Request, RequestError> {
    let mut namespace = None;
    for e in call.elements() {
        match e.name.as_str() {
            "LOCALNAMESPACEPATH" if namespace.is_none() => namespace = Some(valid(values::namespace(e))?),
            "IPARAMVALUE" => {}
            other => return not_valid(format!("{} in IMETHODCALL", shown(other))),
        }
    }
    let Some(namespace) = namespace else {
        return not_valid("IMETHODCALL without LOCALNAMESPACEPATH");
    };
    match intrinsic(&head.name, call) {
        Ok(operation) => Ok(Request {
            head,
            namespace,
            call: Call::Intrinsic(operation),
        }),
        Err(error) => Err(RequestError::Refused { head, error }),
    }
}

fn method_call(call: &Element, head: Head) -> Result<Request, RequestError> {
    let mut target = None;
    for e in call.elements() {
        match e.name.as_str() {
            "LOCALINSTANCEPATH" | "LOCALCLASSPATH" if target.is_none() => {
                target = Some(valid(values::path(e))?)
            }
            "PARAMVALUE" => {}
            other => return not_valid(format!("{} in METHODCALL", shown(other))),
        }
    }
    let Some((namespace, target)) = target.and_then(|t| Some((t.namespace?, t.name))) else {
        return not_valid("METHODCALL without LOCALINSTANCEPATH or LOCALCLASSPATH");
    };
    match Parameters::of(call, "PARAMVALUE").and_then(Parameters::all) {
        Ok(arguments) => Ok(Request {
            head,
            namespace,
            call: Call::Method { target, arguments },
        }),
        Err(error) => Err(RequestError::Refused { head, error }),
    }
}

fn intrinsic(name: &str, call: &Element) -> Result<Intrinsic, CimError> {
    let name = name.to_ascii_lowercase();
    let mut p = Parameters::of(call, "IPARAMVALUE")?;
    let operation = match listing(&name, &mut p)? {
        Some(listing) => Intrinsic::List(listing),
        None => match opened(&name, &mut p)? {
            Some(open) => open,
            None => other(&name, &mut p)?,
        },
    };
    p.finish()?;
    Ok(operation)
}

/// The operations that give everything at once.
fn listing(name: &str, p: &mut Parameters<'_>) -> Result<Option<Listing>, CimError> {
    Ok(Some(match name {
        "enumerateinstances" => Listing::Instances {
            class: p.required_class("ClassName")?,
            view: p.instance_view()?,
        },
        "enumerateinstancenames" => Listing::Names {
            class: p.required_class("ClassName")?,
        },
        "associators" => Listing::Associators {
            relation: p.relation("ObjectName", true)?,
            view: p.instance_view()?,
        },
        "associatornames" => Listing::AssociatorNames {
            relation: p.relation("ObjectName", true)?,
        },
        "references" => Listing::References {
            relation: p.relation("ObjectName", false)?,
            view: p.instance_view()?,
        },
        "referencenames" => Listing::ReferenceNames {
            relation: p.relation("ObjectName", false)?,
        },
        "execquery" => {
            let query = p.query("QueryLanguage", "Query")?;
            Listing::Query(query.ok_or_else(|| missing("Query"))?)
        }
        _ => return Ok(None),
    }))
}

/// The operations that open a pulled enumeration.
fn opened(name: &str, p: &mut Parameters<'_>) -> Result<Option<Intrinsic>, CimError> {
    let listing = match name {
        "openenumerateinstances" => Listing::Instances {
            class: p.required_class("ClassName")?,
            view: p.instance_view()?,
        },
        "openenumerateinstancepaths" => Listing::Names {
            class: p.required_class("ClassName")?,
        },
        "openassociatorinstances" => Listing::Associators {
            relation: p.relation("InstanceName", true)?,
            view: p.instance_view()?,
        },
        "openassociatorinstancepaths" => Listing::AssociatorNames {
            relation: p.relation("InstanceName", true)?,
        },
        "openreferenceinstances" => Listing::References {
            relation: p.relation("InstanceName", false)?,
            view: p.instance_view()?,
        },
        "openreferenceinstancepaths" => Listing::ReferenceNames {
            relation: p.relation("InstanceName", false)?,
        },
        "openqueryinstances" => {
            if p.flag("ReturnQueryResultClass", false)? {
                let message =
                    "ReturnQueryResultClass: the class of a query's result is not given; ask without it";
                return Err(CimError::new(Status::NotSupported, message));
            }
            let query = p.query("FilterQueryLanguage", "FilterQuery")?;
            Listing::Query(query.ok_or_else(|| missing("FilterQuery"))?)
        }
        _ => return Ok(None),
    };
    if p.flag("ContinueOnError", false)? {
        let message = "ContinueOnError: an enumeration ends with its first error; ask without it";
        return Err(CimError::new(Status::NotSupported, message));
    }
    Ok(Some(Intrinsic::Open {
        listing,
        max: p.number("MaxObjectCount")?.unwrap_or(0),
        timeout: p.number("OperationTimeout")?,
        filter: p.query("FilterQueryLanguage", "FilterQuery")?,
    }))
}

fn other(name: &str, p: &mut Parameters<'_>) -> Result<Intrinsic, CimError> {
    Ok(match name {
        "getinstance" => Intrinsic::GetInstance {
            name: p.instance_name("InstanceName")?,
            view: p.instance_view()?,
        },
        "pullinstanceswithpath" => pull(Pulled::InstancesWithPath, p)?,
        "pullinstancepaths" => pull(Pulled::Paths, p)?,
        "pullinstances" => pull(Pulled::Instances, p)?,
        "closeenumeration" => Intrinsic::CloseEnumeration {
            context: p.required_text("EnumerationContext")?,
        },
        "getclass" => {
            let view = p.class_view()?;
            let properties = p.texts("PropertyList")?;
            Intrinsic::GetClass {
                class: p.required_class("ClassName")?,
                view: super::View { properties, ..view },
            }
        }
        "enumerateclasses" => Intrinsic::EnumerateClasses {
            class: p.class("ClassName")?,
            deep: p.flag("DeepInheritance", false)?,
            view: p.class_view()?,
        },
        "enumerateclassnames" => Intrinsic::EnumerateClassNames {
            class: p.class("ClassName")?,
            deep: p.flag("DeepInheritance", false)?,
        },
        "enumeratequalifiers" => Intrinsic::EnumerateQualifiers,
        "getqualifier" => Intrinsic::GetQualifier {
            name: p.required_text("QualifierName")?,
        },
        "createinstance" => Intrinsic::CreateInstance {
            instance: p.instance("NewInstance")?,
        },
        "modifyinstance" => {
            let (name, instance) = p.named_instance("ModifiedInstance")?;
            p.flag("IncludeQualifiers", false)?;
            Intrinsic::ModifyInstance {
                name,
                instance,
                properties: p.texts("PropertyList")?,
            }
        }
        "deleteinstance" => Intrinsic::DeleteInstance {
            name: p.instance_name("InstanceName")?,
        },
        _ => {
            return Err(CimError::new(
                Status::NotSupported,
                format!("there is no operation {}", shown(name)),
            ));
        }
    })
}

fn pull(kind: Pulled, p: &mut Parameters<'_>) -> Result<Intrinsic, CimError> {
    let max = p.number("MaxObjectCount")?;
    Ok(Intrinsic::Pull {
        kind,
        context: p.required_text("EnumerationContext")?,
        max: max.ok_or_else(|| invalid("parameter MaxObjectCount is missing"))?,
    })
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
