//! The MOF reader and the rules of inheritance, with texts that are right, wrong and hostile.

use lifeboat_cim::mof::{self, Declaration, Literal};
use lifeboat_cim::schema::{Fault, SchemaError};
use lifeboat_cim::{CimType, Schema, Value};
use proptest::prelude::*;

const QUALIFIERS: &str = r#"
#pragma namespace ("root/test")
Qualifier Key : boolean = false, Scope(property, reference), Flavor(DisableOverride, ToSubclass);
Qualifier Association : boolean = false, Scope(association), Flavor(DisableOverride, ToSubclass);
Qualifier Abstract : boolean = false, Scope(class, association, indication), Flavor(EnableOverride, Restricted);
Qualifier Indication : boolean = false, Scope(class, indication), Flavor(DisableOverride, ToSubclass);
Qualifier Override : string, Scope(property, reference, method), Flavor(EnableOverride, Restricted);
Qualifier Description : string, Scope(any), Flavor(EnableOverride, ToSubclass, Translatable);
Qualifier ValueMap : string[], Scope(property, method, parameter);
Qualifier MaxLen : uint32, Scope(property, method, parameter);
Qualifier In : boolean = true, Scope(parameter), Flavor(DisableOverride, ToSubclass);
Qualifier Out : boolean = false, Scope(parameter), Flavor(DisableOverride, ToSubclass);
Qualifier EmbeddedInstance : string, Scope(property, method, parameter);
Qualifier EmbeddedObject : boolean = false, Scope(property, method, parameter), Flavor(DisableOverride, ToSubclass);
"#;

fn compile(text: &str) -> Result<Schema, SchemaError> {
    let text = format!("{QUALIFIERS}{text}");
    Schema::compile(&["test.mof"], &[("test.mof", &text)])
}

fn fault(text: &str) -> Fault {
    match compile(text) {
        Err(SchemaError::Schema { fault, .. }) => fault,
        Err(SchemaError::Mof(error)) => panic!("{error}: {text}"),
        Ok(_) => panic!("accepted: {text}"),
    }
}

fn literals(value: &str) -> Option<Literal> {
    let text = format!("class A {{ uint8 x = {value}; }};");
    let declarations = mof::parse("x", &text).ok()?;
    let Declaration::Class(class) = &declarations[0].what else {
        return None;
    };
    class.properties[0].what.default.clone()
}

#[test]
fn values() {
    let text = |t: &str| Some(Literal::Text(t.to_owned()));
    for (written, expected) in [
        ("0", Some(Literal::Integer(0))),
        ("+12", Some(Literal::Integer(12))),
        ("-12", Some(Literal::Integer(-12))),
        ("0x1F", Some(Literal::Integer(31))),
        ("017", Some(Literal::Integer(15))),
        ("101b", Some(Literal::Integer(5))),
        (
            "18446744073709551615",
            Some(Literal::Integer(i128::from(u64::MAX))),
        ),
        (
            "-9223372036854775808",
            Some(Literal::Integer(i128::from(i64::MIN))),
        ),
        ("1.5", Some(Literal::Real(1.5))),
        (".5", Some(Literal::Real(0.5))),
        ("-1.5E-3", Some(Literal::Real(-0.0015))),
        ("TRUE", Some(Literal::Boolean(true))),
        ("False", Some(Literal::Boolean(false))),
        ("null", Some(Literal::Null)),
        ("'a'", Some(Literal::Character('a'))),
        (r"'\x263A'", Some(Literal::Character('\u{263a}'))),
        (r#""a\tb\"c\\""#, text("a\tb\"c\\")),
        (r#""a" "b" /* between */ "c""#, text("abc")),
        (r#""\x41 B""#, text("A B")),
        ("\"a // no comment\"", text("a // no comment")),
        ("{}", Some(Literal::List(Vec::new()))),
        (
            "{1, 2}",
            Some(Literal::List(vec![Literal::Integer(1), Literal::Integer(2)])),
        ),
        // Not values:
        ("18446744073709551616", None),
        ("-9223372036854775809", None),
        ("99999999999999999999999999999999999999999999999999", None),
        ("0x", None),
        ("12b", None),
        ("08", None),
        ("+-1", None),
        ("1.2.3", None),
        ("1.0e999", None),
        ("12ab", None),
        ("''", None),
        ("'ab'", None),
        (r#""\q""#, None),
        (r#""\x""#, None),
        (r#""\xD800""#, None),
        ("{1,}", None),
        ("{{1}}", None),
        ("maybe", None),
    ] {
        assert_eq!(literals(written), expected, "{written}");
    }
}

/// Text, line of the error, beginning of the message; line 0: no error.
const ERRORS: &[(&str, u32, &str)] = &[
    ("", 0, ""),
    (
        "class",
        1,
        "expected the name of the class, found the end of the file",
    ),
    (
        "class A\n{ }\n",
        3,
        "expected ; after the class, found the end of the file",
    ),
    ("class A : { };", 1, "expected the superclass, found {"),
    (
        "class A {\n\n string x\n};",
        4,
        "expected ; after the property, found }",
    ),
    (
        "class A { strnig x; };",
        1,
        "unknown type strnig; a reference is written CLASS REF NAME",
    ),
    (
        "class A { B REF m(); };",
        1,
        "unknown type REF for a return value",
    ),
    (
        "[Key class A { };",
        1,
        "expected ] after the qualifiers, found class",
    ),
    ("[] class A { };", 1, "expected a qualifier, found ]"),
    (
        "instance of A { };",
        1,
        "expected a class, a qualifier declaration or #pragma, found instance",
    ),
    (
        "class A { uint32 m(\n[In] uint8 a\nuint8 b); };",
        3,
        "expected ) after the parameters, found uint8",
    ),
    (
        "Qualifier K : boolean;",
        1,
        "expected , and the scope of the qualifier, found ;",
    ),
    (
        "Qualifier K : reference, Scope(any);",
        1,
        "unknown type reference",
    ),
    (
        "#pragma include (\"a\"",
        1,
        "expected ) after the parameter of the pragma, found the end of the file",
    ),
    ("#progma include (\"a\")", 1, "unexpected character '#'"),
    ("// one\n/* two\n", 2, "comment without an end"),
    ("class A { string x = \"abc\n\"; };", 1, "string without an end"),
    (
        "class A { string x = \"abc\\",
        1,
        "escape sequence without an end",
    ),
    ("class A { uint8 x = 1; } ?", 1, "unexpected character '?'"),
    ("class A { uint8 x = 0y1; };", 1, "0y1 is not a number"),
];

#[test]
fn errors_name_the_line_and_what_was_expected() {
    for &(text, line, message) in ERRORS {
        match mof::parse("f.mof", text) {
            Ok(declarations) => assert!(declarations.is_empty() && line == 0, "{text}"),
            Err(error) => {
                assert!(error.problem.to_string().starts_with(message), "{text}: {error}");
                assert_eq!(
                    (error.file.as_str(), error.line),
                    ("f.mof", line),
                    "{text}: {error}"
                );
            }
        }
    }
}

#[test]
fn hostile_texts_cost_little() {
    let many = 200_000;
    for text in [
        "[".repeat(many),
        "{".repeat(many),
        format!("class A {{ uint8 x = {}; }};", "{".repeat(many)),
        format!("class A {{ uint8 x = {}; }};", "9".repeat(many)),
        "\"".repeat(many),
        "/*".repeat(many),
        format!("class {} {{ }};", "A".repeat(many)),
        "#pragma ".repeat(many),
        "\u{0}".repeat(many),
        "\u{1f600}".repeat(many),
    ] {
        match mof::parse("f", &text) {
            Ok(declarations) => assert_eq!(declarations.len(), 1),
            Err(error) => assert!(error.to_string().len() < 200, "{error}"),
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fall(text in r#"([ \[\](){};,:="'\\/*#+.\-\n0-9a-z]|class |Qualifier |REF|string )*"#) {
        let _ = mof::parse("f", &text);
    }
}

#[test]
fn subclasses_inherit_and_override() {
    let schema = compile(
        r#"
        [Abstract, Description ("base")]
        class A {
            [Key, Description ("id"), MaxLen (4)] string Id;
            uint16 n = 7;
            [EmbeddedObject] string any;
            uint32 m([In] uint8 a, [In (false), Out, EmbeddedInstance ("C")] string b[], boolean c);
        };
        class B : A {
            [Override ("id"), Description ("other")] string Id;
            sint8 s[] = {-1, 2};
        };
        class C : b { };
        "#,
    )
    .unwrap();
    let namespace = schema.namespace("root/test").unwrap();
    let c = namespace.class("C").unwrap();
    assert_eq!(c.superclass.as_deref(), Some("B"));
    assert!(!c.is_abstract, "Abstract is restricted to the class that says it");
    assert!(namespace.class("A").unwrap().is_abstract);
    assert_eq!(c.qualifier("description").unwrap().text(), Some("base"));
    let names: Vec<&str> = c.properties.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["Id", "n", "any", "s"]);
    let id = c.property("ID").unwrap();
    assert!(id.key);
    assert_eq!(id.origin, "B");
    assert_eq!(id.qualifier("Description").unwrap().text(), Some("other"));
    assert_eq!(id.qualifier("MaxLen").unwrap().value, Some(Value::Unsigned(4)));
    assert_eq!(c.property("n").unwrap().default, Some(Value::Unsigned(7)));
    assert_eq!(c.property("any").unwrap().embedded.as_deref(), Some(""));
    let s = Value::Array(vec![Value::Signed(-1), Value::Signed(2)]);
    assert_eq!(c.property("s").unwrap().default, Some(s));
    let m = c.method("M").unwrap();
    assert_eq!((m.returns, m.origin.as_str()), (CimType::Uint32, "A"));
    let directions: Vec<(bool, bool)> = m.parameters.iter().map(|p| (p.input, p.output)).collect();
    assert_eq!(directions, [(true, false), (false, true), (true, false)]);
    assert_eq!(m.parameter("B").unwrap().embedded.as_deref(), Some("C"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (text, expected) in [
        ("class B : A { };", Fault::UnknownSuperclass("A".into())),
        ("class A { }; class a { };", Fault::Duplicate),
        ("class A { string x; uint8 X; };", Fault::Duplicate),
        ("class A { uint8 m(uint8 a, uint8 A); };", Fault::Duplicate),
        ("Qualifier key : boolean, Scope(any);", Fault::Duplicate),
        ("[Kye] class A { };", Fault::UnknownQualifier("Kye".into())),
        ("[Key] class A { };", Fault::Scope("Key".into(), "class")),
        (
            "class A { [Key, key] string x; };",
            Fault::DoubledQualifier("key".into()),
        ),
        (
            "class A { [EmbeddedInstance (\"B\")] string x; };",
            Fault::UnknownClass("B".into()),
        ),
        (
            "class A { uint8 m([In] B REF b); };",
            Fault::UnknownClass("B".into()),
        ),
        ("class A { A REF a; };", Fault::Reference),
        ("class A { [Key] string x[]; };", Fault::KeyType),
        (
            "class A { [EmbeddedObject] uint8 x; };",
            Fault::Value("of an embedded instance, which is string".into()),
        ),
        ("class A { uint8 x = 256; };", Fault::Value("uint8".into())),
        ("class A { sint8 x = -129; };", Fault::Value("sint8".into())),
        ("class A { uint64 x = -1; };", Fault::Value("uint64".into())),
        ("class A { uint8 x[] = 1; };", Fault::Value("uint8[]".into())),
        ("class A { uint8 x = {1}; };", Fault::Value("uint8".into())),
        (
            "class A { uint8 x[] = {1, null}; };",
            Fault::Value("uint8[]".into()),
        ),
        (
            "class A { datetime x = \"today\"; };",
            Fault::Value("datetime".into()),
        ),
        (
            "class A { [MaxLen (\"4\")] string x; };",
            Fault::Value("uint32".into()),
        ),
        (
            "class A { [Override (\"x\")] string x; };",
            Fault::NothingToOverride,
        ),
        (
            "Qualifier X : boolean, Scope(everything);",
            Fault::UnknownWord("everything".into()),
        ),
        (
            "Qualifier X : boolean, Scope(any), Flavor(sweet);",
            Fault::UnknownWord("sweet".into()),
        ),
        ("#pragma include (\"other.mof\")", Fault::UnknownFile),
        ("#pragma include (\"test.mof\")", Fault::Duplicate),
    ] {
        assert_eq!(fault(text), expected, "{text}");
    }
}

#[test]
fn what_makes_no_sense_in_a_subclass_is_refused() {
    let key = "class A { [Key] string Id; uint32 m([In] uint8 a); };";
    for (text, expected) in [
        ("class B : A { string id; };", Fault::WithoutOverride("id".into())),
        (
            "class B : A { [Override (\"Other\")] string Id; };",
            Fault::NothingToOverride,
        ),
        ("class B : A { [Override (\"Id\")] uint8 Id; };", Fault::Mismatch),
        (
            "class B : A { [Override (\"Id\")] string Id[]; };",
            Fault::KeyType,
        ),
        (
            "class B : A { [Override (\"Id\"), Key (false)] string Id; };",
            Fault::FixedQualifier("Key".into()),
        ),
        ("class B : A { [Key] string Other; };", Fault::NewKey),
        ("class B : A { [Override (\"m\")] uint32 m(); };", Fault::Mismatch),
        (
            "class B : A { [Override (\"m\")] uint32 m([In] uint8 b); };",
            Fault::Mismatch,
        ),
        (
            "class B : A { [Override (\"m\")] uint16 m([In] uint8 a); };",
            Fault::Mismatch,
        ),
        ("[Association] class B : A { A REF a; };", Fault::OtherKind),
        (
            "[Association] class P { [Key] A REF a; }; class X { };
             [Association] class Q : P { [Override (\"a\")] X REF a; };",
            Fault::Widened("X".into(), "A".into()),
        ),
    ] {
        assert_eq!(fault(&format!("{key} {text}")), expected, "{text}");
    }
}

#[test]
fn includes_end() {
    let files = [
        ("a.mof", "#pragma include (\"b.mof\")"),
        ("b.mof", "\n#pragma include (\"a.mof\")"),
    ];
    let error = Schema::compile(&["a.mof"], &files).unwrap_err();
    assert!(
        matches!(
            error,
            SchemaError::Schema {
                fault: Fault::IncludeDepth,
                ..
            }
        ),
        "{error}"
    );
    let error = Schema::compile(&["c.mof"], &[("c.mof", "class A { };")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "c.mof, line 1: A: a #pragma namespace must come first"
    );
}

#[test]
fn namespaces_are_apart() {
    let text = "#pragma locale (\"en_US\")
        #pragma namespace (\"root/A\") class X { };
        #pragma namespace (\"root/b\") class x { string only_here; };";
    let schema = Schema::compile(&["t"], &[("t", text)]).unwrap();
    assert_eq!(schema.namespaces.len(), 2);
    assert!(
        schema
            .namespace("root/a")
            .unwrap()
            .class("x")
            .unwrap()
            .properties
            .is_empty()
    );
    assert_eq!(
        schema
            .namespace("ROOT/B")
            .unwrap()
            .class("X")
            .unwrap()
            .properties
            .len(),
        1
    );
}
