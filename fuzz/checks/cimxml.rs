//! What must hold for CIM-XML on any input. Shared by the fuzz targets and by a test of the crate that runs it over the corpus
//! and seeded mutations on a stable toolchain, so it uses only the public API.

use lifeboat_cim::cimxml::{self, Call, RequestError};
use lifeboat_cim::typing::{typed, typed_instance, typed_name};
use lifeboat_cim::{Namespace, ObjectPath, Schema};

fn v2() -> &'static Namespace {
    Schema::builtin()
        .namespace("root/virtualization/v2")
        .expect("it is built in")
}

/// A message for people: short, whatever was sent.
fn short(message: &str) {
    assert!(message.len() < 4096, "{} bytes: {message}", message.len());
}

/// Arbitrary bytes as a request: no panic, every refusal can be answered, and what is accepted can be typed or refused.
pub(crate) fn decode(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match cimxml::decode(text) {
        Ok(request) => {
            let answer = cimxml::nothing(&request.head);
            lifeboat_xml::parse(&answer).expect("an answer");
            if let Call::Method { target, arguments } = &request.call {
                let class = v2().class(&target.class);
                let method = class.ok().and_then(|c| c.method(&request.head.name));
                for (name, raw) in arguments {
                    let Some(parameter) = method.and_then(|m| m.parameter(name)) else {
                        continue;
                    };
                    if let Err(error) = typed(v2(), parameter, raw) {
                        short(&error.message);
                    }
                }
                let _ = typed_name(v2(), target.clone());
                let _ =
                    cimxml::check_headers(&request, Some("MethodCall"), Some("x"), Some(&target.to_string()));
            }
        }
        Err(error) => {
            short(&error.to_string());
            assert!(matches!(error.http_status(), 200 | 400 | 501));
            if let RequestError::Refused { head, error } = error {
                lifeboat_xml::parse(&cimxml::error(&head, &error)).expect("an answer");
            }
        }
    }
}

/// Arbitrary bytes as an embedded instance and as a path: no panic, and what is accepted can be written, read and written the
/// same again.
pub(crate) fn embedded(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(path) = ObjectPath::parse(text) {
        let again = ObjectPath::parse(&path.to_string()).expect("a path that was written");
        assert_eq!(again, path);
    }
    let raw = match cimxml::decode_instance(text) {
        Ok(raw) => raw,
        Err(error) => return short(&error.to_string()),
    };
    let instance = match typed_instance(v2(), "", &raw) {
        Ok(instance) => instance,
        Err(error) => return short(&error.message),
    };
    let written = cimxml::encode_instance(v2(), &instance);
    // A reference may be written in more elements than it was read from, and so become too deep.
    let Ok(raw) = cimxml::decode_instance(&written) else {
        return;
    };
    let again = typed_instance(v2(), "", &raw).expect("an instance that was written");
    assert_eq!(cimxml::encode_instance(v2(), &again), written);
}
