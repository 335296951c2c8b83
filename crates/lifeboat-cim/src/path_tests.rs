//! Texts of paths as clients write them, and what must hold for every path.

use proptest::prelude::*;

use super::{InstanceName, KeyValue, ObjectPath, PathError};

const SNAPSHOT: &str = r"Microsoft:5E5A2C11\HVR\0";

fn snapshot() -> ObjectPath {
    let name = InstanceName::new("Msvm_VirtualSystemSettingData", &[("InstanceID", SNAPSHOT)]);
    ObjectPath::new("root/virtualization/v2", name)
}

#[test]
fn paths_are_read_as_everybody_writes_them() {
    for (text, host, namespace) in [
        (
            r#"\\HOST\root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:5E5A2C11\\HVR\\0""#,
            Some("HOST"),
            Some("root/virtualization/v2"),
        ),
        (
            r#"//host.example/root/virtualization/v2:msvm_virtualsystemsettingdata.instanceid="Microsoft:5e5a2c11\\HVR\\0""#,
            Some("host.example"),
            Some("root/virtualization/v2"),
        ),
        (
            r#"https://host:5989/root/virtualization/v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:5E5A2C11\\HVR\\0""#,
            Some("host:5989"),
            Some("root/virtualization/v2"),
        ),
        (
            r#"root/virtualization/v2:Msvm_VirtualSystemSettingData.InstanceID="Microsoft:5E5A2C11\\HVR\\0""#,
            None,
            Some("root/virtualization/v2"),
        ),
        (
            r#"/root\virtualization\v2:Msvm_VirtualSystemSettingData.InstanceID='Microsoft:5E5A2C11\\HVR\\0'"#,
            None,
            Some("root/virtualization/v2"),
        ),
        (
            r#"Msvm_VirtualSystemSettingData.InstanceID="Microsoft:5E5A2C11\\HVR\\0""#,
            None,
            None,
        ),
        // Not doubled, which is wrong but cannot mean anything else.
        (
            r#" Msvm_VirtualSystemSettingData . InstanceID = "Microsoft:5E5A2C11\HVR\0" "#,
            None,
            None,
        ),
    ] {
        let path = ObjectPath::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(path, snapshot(), "{text}");
        assert_eq!(
            (path.host.as_deref(), path.namespace.as_deref()),
            (host, namespace),
            "{text}"
        );
    }
}

#[test]
fn keys_of_all_kinds_are_read() {
    let path = ObjectPath::parse(r#"C.a="x,y=\"z\"",b=12,c=TRUE , d='it"s', e="" "#).unwrap();
    let keys: Vec<_> = path
        .name
        .keys
        .iter()
        .map(|(n, v)| (n.as_str(), v.to_string()))
        .collect();
    let expected = [
        ("a", r#"x,y="z""#),
        ("b", "12"),
        ("c", "TRUE"),
        ("d", "it\"s"),
        ("e", ""),
    ];
    assert_eq!(keys, expected.map(|(n, v)| (n, v.to_owned())));
    for only in ["Service=@", "Service", "root/interop:Service=@"] {
        let path = ObjectPath::parse(only).unwrap();
        assert_eq!((path.name.class.as_str(), path.name.keys.len()), ("Service", 0));
    }
}

#[test]
fn references_are_escaped_within_paths() {
    let vm = InstanceName::new("Msvm_ComputerSystem", &[("Name", r#"a\"b"#)]);
    let mut vm = ObjectPath::new("root/virtualization/v2", vm);
    vm.host = Some("H".to_owned());
    let name = InstanceName {
        class: "Msvm_SettingsDefineState".to_owned(),
        keys: vec![(
            "ManagedElement".to_owned(),
            KeyValue::Reference(Box::new(vm.clone())),
        )],
    };
    let text = ObjectPath::new("root/virtualization/v2", name).to_string();
    assert_eq!(
        text,
        r#"root\virtualization\v2:Msvm_SettingsDefineState.ManagedElement="\\\\H\\root\\virtualization\\v2:Msvm_ComputerSystem.Name=\"a\\\\\\\"b\"""#
    );
    let read = ObjectPath::parse(&text).unwrap();
    let inner = ObjectPath::parse(read.name.text("managedelement").unwrap()).unwrap();
    assert_eq!((&inner, inner.host.as_deref()), (&vm, Some("H")));
}

#[test]
fn what_is_no_path_is_refused() {
    let many: String = (0..33).map(|n| format!(",k{n}=1")).collect();
    for (text, error) in [
        (String::new(), PathError::Class),
        ("12".to_owned(), PathError::Class),
        ("<INSTANCE/>".to_owned(), PathError::Class),
        ("root/v2:".to_owned(), PathError::Class),
        (r"\\host".to_owned(), PathError::Namespace),
        (r"\\\root:C".to_owned(), PathError::Namespace),
        (r"\\host\C".to_owned(), PathError::Namespace),
        (":C".to_owned(), PathError::Namespace),
        ("root//v2:C".to_owned(), PathError::Namespace),
        ("C.".to_owned(), PathError::Keys),
        ("C.a".to_owned(), PathError::Keys),
        ("C.a=".to_owned(), PathError::Keys),
        ("C.=1".to_owned(), PathError::Keys),
        ("C=\"x\"".to_owned(), PathError::Keys),
        ("C.a=1,".to_owned(), PathError::Keys),
        ("C.a=\"1\" b=2".to_owned(), PathError::Keys),
        ("C.a=x y".to_owned(), PathError::Keys),
        ("C.a=\"x".to_owned(), PathError::Unterminated),
        ("C.a=\"x\\\"".to_owned(), PathError::Unterminated),
        ("C.a=1,A=2".to_owned(), PathError::Doubled("A".to_owned())),
        (format!("C.k=1{many}"), PathError::TooLong),
        (format!("C.k=\"{}\"", "x".repeat(20_000)), PathError::TooLong),
    ] {
        assert_eq!(ObjectPath::parse(&text).err(), Some(error), "{text}");
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9\\\\\"',=:./ ä-]{0,24}",
        any::<String>().prop_map(|s| s.chars().take(24).collect())
    ]
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        host in prop::option::of("[a-z.:0-9]{1,12}"),
        namespace in prop::option::of("[a-z]{1,5}(/[a-z0-9]{0,1}[a-z]{1,4}){0,3}".prop_filter("identifiers", |n| n.split('/').all(super::is_identifier))),
        class in "[A-Z][A-Za-z_0-9]{0,20}",
        values in prop::collection::vec(text(), 0..5),
    ) {
        let keys = values.iter().enumerate().map(|(n, v)| (format!("Key{n}"), KeyValue::Text(v.clone())));
        let path = ObjectPath { host, namespace, name: InstanceName { class, keys: keys.collect() } };
        let read = ObjectPath::parse(&path.to_string()).unwrap();
        prop_assert_eq!(&read.namespace, &path.namespace);
        prop_assert_eq!(&read.host, &path.host.filter(|_| path.namespace.is_some()));
        prop_assert_eq!(&read.name.class, &path.name.class);
        for ((_, read), (_, written)) in read.name.keys.iter().zip(&path.name.keys) {
            // Not ==, which ignores case.
            prop_assert_eq!(read.to_string(), written.to_string());
        }
        prop_assert_eq!(read.name.keys.len(), path.name.keys.len());
    }

    #[test]
    fn nothing_panics(text in "[a-zä\\\\/:.=\"',@ 1]{0,40}") {
        let _ = ObjectPath::parse(&text);
    }
}
