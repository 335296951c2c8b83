//! Classes and qualifier declarations as items of an answer.

use super::View;
use super::write::{content, property_element, property_start};
use crate::schema::{Class, Method, Namespace, Parameter, Property, Qualifier, QualifierDeclaration};
use crate::value::{CimType, Value};
use lifeboat_xml::Writer;

const PROPAGATED: (&str, &str) = ("PROPAGATED", "true");

/// CLASS, with its inherited parts unless the view wants its own only.
#[must_use]
pub fn class_item(namespace: &Namespace, class: &Class, view: &View) -> String {
    let item = Item {
        namespace,
        class,
        view,
    };
    let mut w = Writer::new();
    let mut attributes = vec![("NAME", class.name.as_str())];
    attributes.extend(class.superclass.as_deref().map(|s| ("SUPERCLASS", s)));
    w.start("CLASS", &attributes);
    item.qualifiers(&mut w, &class.qualifiers);
    for property in class
        .properties
        .iter()
        .filter(|p| item.shows(&p.origin) && view.wants(&p.name))
    {
        item.property(&mut w, property);
    }
    for method in class.methods.iter().filter(|m| item.shows(&m.origin)) {
        item.method(&mut w, method);
    }
    w.end("CLASS");
    w.finish()
}

/// CLASSNAME.
#[must_use]
pub fn class_name_item(name: &str) -> String {
    let mut w = Writer::new();
    w.empty("CLASSNAME", &[("NAME", name)]);
    w.finish()
}

/// QUALIFIER.DECLARATION.
#[must_use]
pub fn qualifier_item(namespace: &Namespace, declaration: &QualifierDeclaration) -> String {
    let mut w = Writer::new();
    let says = |yes: bool| if yes { "true" } else { "false" };
    w.start(
        "QUALIFIER.DECLARATION",
        &[
            ("NAME", &declaration.name),
            ("TYPE", declaration.kind.name()),
            ("ISARRAY", says(declaration.array)),
            ("OVERRIDABLE", says(declaration.overridable)),
            ("TOSUBCLASS", says(declaration.to_subclass)),
            ("TRANSLATABLE", says(declaration.translatable)),
        ],
    );
    const SCOPES: [&str; 7] = [
        "CLASS",
        "ASSOCIATION",
        "REFERENCE",
        "PROPERTY",
        "METHOD",
        "PARAMETER",
        "INDICATION",
    ];
    let applies = |scope: &&&str| {
        let named = |s: &String| s.eq_ignore_ascii_case(scope) || s.eq_ignore_ascii_case("any");
        declaration.scopes.iter().any(named)
    };
    let scopes: Vec<(&str, &str)> = SCOPES.iter().filter(applies).map(|s| (*s, "true")).collect();
    w.empty("SCOPE", &scopes);
    if let Some(value) = &declaration.default {
        content(&mut w, namespace, declaration.array, value);
    }
    w.end("QUALIFIER.DECLARATION");
    w.finish()
}

struct Item<'a> {
    namespace: &'a Namespace,
    class: &'a Class,
    view: &'a View,
}

impl Item<'_> {
    fn own(&self, origin: &str) -> bool {
        origin.is_empty() || origin.eq_ignore_ascii_case(&self.class.name)
    }

    fn shows(&self, origin: &str) -> bool {
        !self.view.local_only || self.own(origin)
    }

    /// Where something comes from, as far as the view wants it said.
    fn origin<'o>(&self, origin: &'o str) -> Vec<(&'static str, &'o str)> {
        let mut attributes = Vec::new();
        if self.view.class_origin && !origin.is_empty() {
            attributes.push(("CLASSORIGIN", origin));
        }
        if !self.own(origin) {
            attributes.push(PROPAGATED);
        }
        attributes
    }

    fn qualifiers(&self, w: &mut Writer, qualifiers: &[Qualifier]) {
        for qualifier in qualifiers.iter().filter(|_| self.view.qualifiers) {
            let mut attributes = vec![("NAME", qualifier.name.as_str()), ("TYPE", qualifier.kind.name())];
            if let Some(declared) = self
                .namespace
                .qualifiers
                .get(&qualifier.name.to_ascii_lowercase())
            {
                // The DTD's own defaults are left out.
                attributes.extend((!declared.overridable).then_some(("OVERRIDABLE", "false")));
                attributes.extend((!declared.to_subclass).then_some(("TOSUBCLASS", "false")));
                attributes.extend(declared.translatable.then_some(("TRANSLATABLE", "true")));
            }
            w.start("QUALIFIER", &attributes);
            if let Some(value) = &qualifier.value {
                content(w, self.namespace, matches!(value, Value::Array(_)), value);
            }
            w.end("QUALIFIER");
        }
    }

    fn property(&self, w: &mut Writer, property: &Property) {
        property_start(w, property, &self.origin(&property.origin));
        self.qualifiers(w, &property.qualifiers);
        if let Some(value) = &property.default {
            content(w, self.namespace, property.array, value);
        }
        w.end(property_element(property));
    }

    fn method(&self, w: &mut Writer, method: &Method) {
        let mut attributes = vec![("NAME", method.name.as_str()), ("TYPE", method.returns.name())];
        attributes.extend(self.origin(&method.origin));
        w.start("METHOD", &attributes);
        self.qualifiers(w, &method.qualifiers);
        for parameter in &method.parameters {
            self.parameter(w, parameter);
        }
        w.end("METHOD");
    }

    fn parameter(&self, w: &mut Writer, parameter: &Parameter) {
        let mut attributes = vec![("NAME", parameter.name.as_str())];
        let name = match (parameter.kind, parameter.array) {
            (CimType::Reference, true) => "PARAMETER.REFARRAY",
            (CimType::Reference, false) => "PARAMETER.REFERENCE",
            (_, true) => "PARAMETER.ARRAY",
            (_, false) => "PARAMETER",
        };
        match parameter.kind {
            CimType::Reference => {
                attributes.extend(
                    parameter
                        .reference_class
                        .as_deref()
                        .map(|c| ("REFERENCECLASS", c)),
                );
            }
            kind => attributes.push(("TYPE", kind.name())),
        }
        w.start(name, &attributes);
        self.qualifiers(w, &parameter.qualifiers);
        w.end(name);
    }
}
