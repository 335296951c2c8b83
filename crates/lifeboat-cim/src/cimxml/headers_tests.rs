//! Headers of requests against their bodies.

use super::{HeaderMismatch, check_headers, extension_prefix};
use crate::cimxml::{Call, Head, Intrinsic, Request};
use crate::path::{InstanceName, KeyValue, ObjectPath};

fn request(intrinsic: bool, name: &str, call: Call) -> Request {
    let head = Head {
        id: "1".to_owned(),
        name: name.to_owned(),
        intrinsic,
    };
    Request {
        head,
        namespace: "root/virtualization/v2".to_owned(),
        call,
    }
}

fn object(request: &Request, object: &str) -> Result<(), HeaderMismatch> {
    check_headers(
        request,
        Some("MethodCall"),
        Some(&request.head.name),
        Some(object),
    )
}

#[test]
fn operations_are_named_with_their_namespace() {
    let request = request(
        true,
        "EnumerateQualifiers",
        Call::Intrinsic(Intrinsic::EnumerateQualifiers),
    );
    for space in [
        "root/virtualization/v2",
        "ROOT/virtualization/V2",
        "root%2Fvirtualization%2fv2",
        &["", "root", "virtualization", "v2 "].join("/"),
    ] {
        assert_eq!(object(&request, space), Ok(()), "{space}");
    }
    for wrong in ["root/interop", "", "root%2", "root/virtualization/v2:C"] {
        assert_eq!(object(&request, wrong), Err(HeaderMismatch::Object), "{wrong}");
    }
    let check = |o, m| check_headers(&request, o, m, Some("root/virtualization/v2"));
    assert_eq!(check(Some("methodcall"), Some("enumeratequalifiers")), Ok(()));
    assert_eq!(
        check(Some("MethodResponse"), Some("EnumerateQualifiers")),
        Err(HeaderMismatch::Operation)
    );
    assert_eq!(
        check(None, Some("EnumerateQualifiers")),
        Err(HeaderMismatch::Operation)
    );
    assert_eq!(
        check(Some("MethodCall"), Some("GetClass")),
        Err(HeaderMismatch::Method)
    );
    assert_eq!(check(Some("MethodCall"), None), Err(HeaderMismatch::Method));
    assert_eq!(
        check_headers(&request, Some("MethodCall"), Some("EnumerateQualifiers"), None),
        Err(HeaderMismatch::Object)
    );
}

#[test]
fn methods_are_named_with_their_object() {
    let name = InstanceName::new("C", &[("Name", "a \"b\" ü"), ("Key", "1")]);
    let method = |target| {
        request(
            false,
            "M",
            Call::Method {
                target,
                arguments: Vec::new(),
            },
        )
    };
    let on_instance = method(name);
    for path in [
        r#"root/virtualization/v2:C.Name="a \"b\" ü",Key="1""#,
        r#"root/virtualization/v2:c.key=1,name="A \"B\" ü""#,
        "root%2Fvirtualization%2Fv2%3AC.Name%3D%22a%20%5C%22b%5C%22%20%C3%BC%22%2CKey%3D%221%22",
        r#"//host/root/virtualization/v2:C.Name="a \"b\" ü",Key="1""#,
    ] {
        assert_eq!(object(&on_instance, path), Ok(()), "{path}");
    }
    for path in [
        "root/virtualization/v2",
        "root/virtualization/v2:C",
        r#"root/interop:C.Name="a \"b\" ü",Key="1""#,
        r#"root/virtualization/v2:D.Name="a \"b\" ü",Key="1""#,
        r#"root/virtualization/v2:C.Name="a",Key="1""#,
        r#"C.Name="a \"b\" ü",Key="1""#,
        "root/virtualization/v2:C.Name=%",
    ] {
        assert_eq!(object(&on_instance, path), Err(HeaderMismatch::Object), "{path}");
    }
    assert_eq!(
        object(&method(InstanceName::new("C", &[])), "root/virtualization/v2:C"),
        Ok(())
    );
    let to = ObjectPath::new("x", InstanceName::new("D", &[]));
    let link = InstanceName {
        class: "L".to_owned(),
        keys: vec![("From".to_owned(), KeyValue::Reference(Box::new(to)))],
    };
    assert_eq!(
        object(&method(link), "root/virtualization/v2:L.From=\"/x:D\""),
        Ok(())
    );
}

#[test]
fn m_post_names_the_prefix_of_its_headers() {
    for man in [
        "http://www.dmtf.org/cim/mapping/http/v1.0 ; ns=73",
        "\"http://www.dmtf.org/cim/operation\";ns=73",
    ] {
        assert_eq!(extension_prefix(man).as_deref(), Some("73-"), "{man}");
    }
    for man in [
        "",
        "http://www.dmtf.org/cim/x",
        "http://www.dmtf.org/cim/x;ns=7",
        "http://www.dmtf.org/cim/x;ns=ab",
        "http://other;ns=73",
    ] {
        assert_eq!(extension_prefix(man), None, "{man}");
    }
}
