//! Reading untrusted XML into a small tree, and writing XML. Reading is bounded in depth and in the number of nodes (the
//! caller bounds the bytes) and refuses document types, so that nothing is ever expanded or fetched. Pure: it turns text into a
//! tree and a tree's parts into text. What elements mean is the caller's business.
// To move into [workspace.lints] when all crates hold it.
#![warn(clippy::match_bool, clippy::option_option, clippy::struct_excessive_bools)]
#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

use std::borrow::Cow;
use std::sync::Arc;

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;

/// Deepest nesting of elements.
pub const MAX_DEPTH: usize = 64;
/// Most elements and attributes of a document.
pub const MAX_NODES: usize = 100_000;
/// Most attributes of an element, namespace declarations among them: names are compared pairwise to find doubled ones.
pub const MAX_ATTRIBUTES: usize = 256;

/// Longest namespace, bytes: it is compared for each name.
const MAX_NAMESPACE: usize = 512;

/// What is wrong with a document; always the sender's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not well-formed.
    #[error("not well-formed XML at byte {at}: {what}")]
    Malformed {
        /// Byte of the document that had been read by then, from 0.
        at: u64,
        /// What the reader said.
        what: String,
    },
    /// A document type declaration.
    #[error("a document type declaration is not accepted")]
    DocType,
    /// Nested too deeply.
    #[error("elements nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// Too many nodes.
    #[error(
        "more than {MAX_NODES} elements and attributes, or more than {MAX_ATTRIBUTES} attributes of one element"
    )]
    TooMany,
    /// Bytes that are no text in the encoding they claim.
    #[error("the text is not valid {0}")]
    Encoding(&'static str),
}

/// A child.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text, entities resolved; CDATA likewise.
    Text(String),
}

/// An element.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// Local name.
    pub name: String,
    /// Namespace; `None` outside any.
    pub namespace: Option<Arc<str>>,
    /// In the order they came, without namespace declarations.
    pub attributes: Vec<Attribute>,
    /// In the order they came.
    pub children: Vec<Node>,
}

/// An attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Local name.
    pub name: String,
    /// Namespace; `None` without a prefix.
    pub namespace: Option<Arc<str>>,
    /// Value without its quotes, with references resolved.
    pub value: String,
}

impl Element {
    /// Child elements.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|n| match n {
            Node::Element(e) => Some(e),
            Node::Text(_) => None,
        })
    }

    /// The first child element with this local name, in any namespace.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.elements().find(|e| e.name == name)
    }

    /// The first child element with this name in this namespace.
    #[must_use]
    pub fn child_in(&self, namespace: &str, name: &str) -> Option<&Element> {
        self.elements().find(|e| e.is(namespace, name))
    }

    /// Whether it has this name in this namespace.
    #[must_use]
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.name == name && self.namespace.as_deref() == Some(namespace)
    }

    /// The value of an attribute with this local name, in any namespace.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|a| a.name == name);
        found.map(|a| a.value.as_str())
    }

    /// The text directly in it, with surrounding white space.
    #[must_use]
    pub fn text(&self) -> String {
        let texts = self.children.iter().filter_map(|n| match n {
            Node::Text(t) => Some(t.as_str()),
            Node::Element(_) => None,
        });
        texts.collect()
    }
}

/// Text from bytes in the encoding that a byte order mark or the `charset` of a content type says: UTF-8 or UTF-16.
///
/// # Errors
/// Bytes that are not what they claim.
pub fn decode_text<'a>(bytes: &'a [u8], charset: Option<&str>) -> Result<Cow<'a, str>, XmlError> {
    let utf16 = charset.is_some_and(|c| c.to_ascii_lowercase().starts_with("utf-16"));
    let big = charset.is_some_and(|c| c.eq_ignore_ascii_case("utf-16be"));
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16_text(rest, false),
        [0xfe, 0xff, rest @ ..] => utf16_text(rest, true),
        _ if utf16 => utf16_text(bytes, big),
        [0xef, 0xbb, 0xbf, rest @ ..] => utf8_text(rest),
        _ => utf8_text(bytes),
    }
}

fn utf8_text(bytes: &[u8]) -> Result<Cow<'_, str>, XmlError> {
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Encoding("UTF-8"))?;
    Ok(Cow::Borrowed(text))
}

fn utf16_text(bytes: &[u8], big: bool) -> Result<Cow<'static, str>, XmlError> {
    let wrong = XmlError::Encoding("UTF-16");
    if !bytes.len().is_multiple_of(2) {
        return Err(wrong);
    }
    let unit = |c: &[u8]| {
        if big {
            u16::from_be_bytes([c[0], c[1]])
        } else {
            u16::from_le_bytes([c[0], c[1]])
        }
    };
    let units: Vec<u16> = bytes.chunks_exact(2).map(unit).collect();
    let text = String::from_utf16(&units).map_err(|_| wrong)?;
    Ok(Cow::Owned(text))
}

/// Reads a document, which must have exactly one root element.
///
/// # Errors
/// Anything that is not well-formed, is too large in depth or number, or brings a document type.
pub fn parse(text: &str) -> Result<Element, XmlError> {
    Builder {
        reader: NsReader::from_str(text),
        open: Vec::new(),
        root: None,
        nodes: 0,
        names: Vec::new(),
    }
    .run()
}

struct Builder<'a> {
    reader: NsReader<&'a [u8]>,
    open: Vec<Element>,
    root: Option<Element>,
    nodes: usize,
    /// Namespaces seen so far: few, and named by nearly every element.
    names: Vec<Arc<str>>,
}

impl Builder<'_> {
    fn malformed(&self, what: impl ToString) -> XmlError {
        let what = what.to_string().chars().take(200).collect();
        XmlError::Malformed {
            at: self.reader.buffer_position(),
            what,
        }
    }

    fn run(mut self) -> Result<Element, XmlError> {
        loop {
            let event = self.reader.read_event().map_err(|e| self.malformed(e))?;
            match event {
                Event::Start(start) => {
                    let element = self.element(&start)?;
                    if self.open.len() >= MAX_DEPTH {
                        return Err(XmlError::TooDeep);
                    }
                    self.open.push(element);
                }
                Event::Empty(start) => {
                    let element = self.element(&start)?;
                    self.close(element)?;
                }
                Event::End(_) => {
                    let Some(element) = self.open.pop() else {
                        return Err(self.malformed("an end without a beginning"));
                    };
                    self.close(element)?;
                }
                Event::Text(text) => {
                    let text = text.xml10_content().into_owned();
                    self.text(text)?;
                }
                Event::CData(data) => {
                    let data = data.xml10_content().into_owned();
                    self.text(data)?;
                }
                Event::GeneralRef(reference) => {
                    let text = self.reference(&reference)?;
                    self.text(text)?;
                }
                Event::DocType(_) => return Err(XmlError::DocType),
                Event::Decl(_) | Event::Comment(_) | Event::PI(_) => {}
                Event::Eof => break,
            }
        }
        match self.root.take() {
            Some(root) if self.open.is_empty() => Ok(root),
            _ => Err(self.malformed("the document ends too early")),
        }
    }

    fn reference(&self, reference: &quick_xml::events::BytesRef<'_>) -> Result<String, XmlError> {
        if let Some(c) = reference.resolve_char_ref().map_err(|e| self.malformed(e))? {
            return Ok(c.into());
        }
        let name: &str = reference;
        match quick_xml::escape::resolve_predefined_entity(name) {
            Some(text) => Ok(text.to_owned()),
            None => Err(self.malformed(format!("unknown entity \"{name}\""))),
        }
    }

    fn element(&mut self, start: &BytesStart<'_>) -> Result<Element, XmlError> {
        if self.root.is_some() && self.open.is_empty() {
            return Err(self.malformed("a second root element"));
        }
        self.count()?;
        let (resolved, local) = self.reader.resolver().resolve_element(start.name());
        let namespace = bound(resolved).map_err(|e| self.malformed(e))?;
        let name = local.as_ref().to_owned();
        let namespace = namespace.map(|n| self.shared(&n));
        let mut attributes = Vec::new();
        for (n, attribute) in start.attributes().enumerate() {
            let attribute = attribute.map_err(|e| self.malformed(e))?;
            if n == MAX_ATTRIBUTES {
                return Err(XmlError::TooMany);
            }
            self.count()?;
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let (resolved, local) = self.reader.resolver().resolve_attribute(attribute.key);
            let bound_to = bound(resolved).map_err(|e| self.malformed(e))?;
            let name = local.as_ref().to_owned();
            let value = quick_xml::escape::unescape(&attribute.value).map_err(|e| self.malformed(e))?;
            let value = value.into_owned();
            let namespace = bound_to.map(|n| self.shared(&n));
            attributes.push(Attribute {
                name,
                namespace,
                value,
            });
        }
        Ok(Element {
            name,
            namespace,
            attributes,
            children: Vec::new(),
        })
    }

    fn shared(&mut self, namespace: &str) -> Arc<str> {
        if let Some(known) = self.names.iter().find(|n| n.as_ref() == namespace) {
            return known.clone();
        }
        let new: Arc<str> = namespace.into();
        // A document with more than this many namespaces gains nothing by sharing them.
        if self.names.len() < 64 {
            self.names.push(new.clone());
        }
        new
    }

    fn count(&mut self) -> Result<(), XmlError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            Err(XmlError::TooMany)
        } else {
            Ok(())
        }
    }

    fn close(&mut self, element: Element) -> Result<(), XmlError> {
        match self.open.last_mut() {
            Some(parent) => parent.children.push(Node::Element(element)),
            None if self.root.is_none() => self.root = Some(element),
            None => return Err(self.malformed("a second root element")),
        }
        Ok(())
    }

    fn text(&mut self, text: String) -> Result<(), XmlError> {
        match self.open.last_mut() {
            Some(parent) => match parent.children.last_mut() {
                Some(Node::Text(before)) => before.push_str(&text),
                _ => {
                    self.count()?;
                    let Some(parent) = self.open.last_mut() else {
                        return Ok(());
                    };
                    parent.children.push(Node::Text(text));
                }
            },
            None if text.trim().is_empty() => {}
            None => return Err(self.malformed("text outside of the root element")),
        }
        Ok(())
    }
}

fn bound(resolved: ResolveResult<'_>) -> Result<Option<String>, String> {
    match resolved {
        ResolveResult::Bound(n) if n.as_ref().len() > MAX_NAMESPACE => {
            Err(format!("a namespace of more than {MAX_NAMESPACE} bytes"))
        }
        ResolveResult::Bound(n) => Ok(Some(n.as_ref().to_owned())),
        ResolveResult::Unbound => Ok(None),
        ResolveResult::Unknown(prefix) => Err(format!("the prefix \"{prefix}\" is not declared")),
    }
}

/// Writes XML. Names and prefixes are the caller's and are written as they are; text and values are escaped, and characters
/// that XML 1.0 cannot hold become `?`.
#[derive(Debug, Default)]
pub struct Writer {
    out: String,
}

impl Writer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `<name a="v">`.
    pub fn start(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes);
        self.out.push('>');
    }

    /// `</name>`.
    pub fn end(&mut self, name: &str) {
        self.out.push_str("</");
        self.out.push_str(name);
        self.out.push('>');
    }

    /// `<name a="v"/>`.
    pub fn empty(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.tag(name, attributes);
        self.out.push_str("/>");
    }

    /// `<name a="v">text</name>`.
    pub fn leaf(&mut self, name: &str, attributes: &[(&str, &str)], text: &str) {
        self.start(name, attributes);
        self.text(text);
        self.end(name);
    }

    /// Writes text; `<`, `>`, `&`, `"` and carriage returns as references, characters that XML does not have as `?`.
    pub fn text(&mut self, text: &str) {
        escape_into(&mut self.out, text, false);
    }

    /// Something that this writer made elsewhere.
    pub fn raw(&mut self, xml: &str) {
        self.out.push_str(xml);
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Nothing yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// The document.
    #[must_use]
    pub fn finish(self) -> String {
        self.out
    }

    fn tag(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.out.push('<');
        self.out.push_str(name);
        for (name, value) in attributes {
            self.out.push(' ');
            self.out.push_str(name);
            self.out.push_str("=\"");
            escape_into(&mut self.out, value, true);
            self.out.push('"');
        }
    }
}

fn escape_into(out: &mut String, text: &str, attribute: bool) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            // Written plainly, a reader would make a line feed of it.
            '\r' => out.push_str("&#13;"),
            // In attributes, a reader would make spaces of these.
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            '\t' | '\n' => out.push(c),
            c if u32::from(c) < 0x20 || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('?'),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_keeps_names_namespaces_and_text() {
        let root = parse("<?xml version=\"1.0\"?><a:x xmlns:a='urn:1' b='1&amp;2' a:c='3'><y> t<![CDATA[<&>]]>&#65;&lt;</y><!-- no --></a:x>").unwrap();
        assert!(root.is("urn:1", "x"));
        assert_eq!(
            (root.attribute("b"), root.attribute("c")),
            (Some("1&2"), Some("3"))
        );
        let y = root.child("y").unwrap();
        assert_eq!((y.namespace.as_deref(), y.text().as_str()), (None, " t<&>A<"));
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = "<a>".repeat(100_000);
        assert_eq!(parse(&deep), Err(XmlError::TooDeep));
        let wide = format!("<a>{}</a>", "<b/>".repeat(MAX_NODES + 1));
        assert_eq!(parse(&wide), Err(XmlError::TooMany));
        let attributes: String = (0..MAX_NODES).map(|i| format!(" a{i}='x'")).collect();
        assert_eq!(parse(&format!("<a{attributes}/>")), Err(XmlError::TooMany));
        let some: String = (0..MAX_ATTRIBUTES).map(|i| format!(" a{i}='x'")).collect();
        assert!(parse(&format!("<a{some}/>")).is_ok());
        assert_eq!(parse(&format!("<a{some} b='x'/>")), Err(XmlError::TooMany));
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bb\">]><a>&b;</a>";
        assert_eq!(parse(bomb), Err(XmlError::DocType));
        let long = format!("<a xmlns='{}'/>", "x".repeat(MAX_NAMESPACE + 1));
        assert!(matches!(parse(&long), Err(XmlError::Malformed { .. })));
        for bad in [
            "",
            "x",
            "<a>",
            "<a></b>",
            "<a/><b/>",
            "<a>&b;</a>",
            "<p:a/>",
            "<a p:b='1'/>",
            "<a/>x",
            "</a>",
            "<a b='1' b='2'/>",
            "<a b=1/>",
            "<a>&#0;</a>",
            "<a>&#x110000;</a>",
        ] {
            assert!(
                matches!(parse(bad), Err(XmlError::Malformed { .. })),
                "{bad}: {:?}",
                parse(bad)
            );
        }
    }

    /// Each of these is some megabytes and would take minutes if anything were quadratic; the test's time limit tells.
    #[test]
    fn hostile_documents_cost_little() {
        let many = |n: usize, of: &dyn Fn(usize) -> String| (0..n).map(of).collect::<String>();
        let declarations = many(100_000, &|i| format!(" xmlns:n{i}='u{i}'"));
        let few = many(100, &|i| format!(" xmlns:n{i}='u{i}'"));
        for document in [
            format!("<a{declarations}/>"),
            format!("<a{few}>{}</a>", "<n0:b n1:c='d'/>".repeat(40_000)),
            format!(
                "{}{}",
                many(60, &|i| format!("<a xmlns:m{i}='u'{few}>")),
                "<n0:b/>".repeat(90_000)
            ),
            format!("<a>{}</a>", many(30_000, &|i| format!("<b xmlns='u{i}'/>"))),
            format!("<a{}/>", many(100_000, &|i| format!(" a{i}='x'"))),
            format!("<a>{}</a>", "&lt;".repeat(1_000_000)),
            format!("<a>{}</a>", "<![CDATA[]]>".repeat(300_000)),
            format!("<a>{}</a>", "<!---->x".repeat(400_000)),
            format!("<a>&{};</a>", "x".repeat(4_000_000)),
            format!("<{}/>", "x".repeat(4_000_000)),
            "<".repeat(4_000_000),
            format!("<a b='{}'/>", "&#65;".repeat(800_000)),
        ] {
            let start = std::time::Instant::now();
            let outcome = parse(&document);
            let took = start.elapsed();
            println!("{took:?} for {} bytes: {:?}", document.len(), outcome.err());
            assert!(took.as_secs() < 10, "{took:?} for {}", &document[..60]);
        }
    }

    #[test]
    fn both_encodings_are_read() {
        let utf16 = |big: bool, mark: bool| {
            let units = "<ä/>".encode_utf16();
            let unit = |u: u16| if big { u.to_be_bytes() } else { u.to_le_bytes() };
            let mark: Vec<u8> = if mark { unit(0xfeff).to_vec() } else { Vec::new() };
            mark.into_iter().chain(units.flat_map(unit)).collect::<Vec<u8>>()
        };
        for (bytes, charset) in [
            ("<ä/>".as_bytes().to_vec(), None),
            ("\u{feff}<ä/>".as_bytes().to_vec(), Some("utf-8")),
            (utf16(false, true), None),
            (utf16(true, true), Some("UTF-16")),
            (utf16(false, false), Some("utf-16")),
            (utf16(true, false), Some("UTF-16BE")),
        ] {
            assert_eq!(parse(&decode_text(&bytes, charset).unwrap()).unwrap().name, "ä");
        }
        assert!(decode_text(b"\xff\xfe\x00", None).is_err());
        assert!(decode_text(b"\xc3(", None).is_err());
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = "a<b>&\"c\"\r\n\t\u{1}é";
        let mut w = Writer::new();
        w.start("r", &[("v", "1<\"\r\n\t")]);
        w.leaf("t", &[], text);
        w.empty("e", &[]);
        w.end("r");
        let root = parse(&w.finish()).unwrap();
        assert_eq!(root.attribute("v"), Some("1<\"\r\n\t"));
        assert_eq!(root.child("t").unwrap().text(), text.replace('\u{1}', "?"));
    }
}
