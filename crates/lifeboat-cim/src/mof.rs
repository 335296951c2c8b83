//! MOF (DSP0004) as far as class declarations need it: comments, `#pragma`, qualifier declarations, classes, associations and
//! indications. One file becomes a list of declarations with their lines; what they mean together (inheritance, types of
//! values, included files) is said by the schema. Instances and aliases are not read: this project declares none.

mod lexer;
mod parser;

pub use parser::parse;

/// What is wrong with a MOF file, and where; its author's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {problem}")]
pub struct MofError {
    /// File, as it was given to [`parse`].
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// What the text has there, and what the grammar wants instead.
    pub problem: MofProblem,
}

/// What may be wrong with the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MofProblem {
    /// Something else was needed here.
    #[error("expected {wanted}, found {found}")]
    Expected {
        /// What the grammar wants.
        wanted: &'static str,
        /// What is there, shortened.
        found: String,
    },
    /// A comment, string or character that the file ends within (strings and characters also must end on their line).
    #[error("{0} without an end")]
    Unterminated(&'static str),
    /// A backslash followed by something that has no meaning.
    #[error("unknown escape sequence \\{0}")]
    Escape(char),
    /// A number that cannot be read or that no CIM type holds.
    #[error("{0} is not a number that a CIM type can hold")]
    Number(String),
    /// A character that begins nothing.
    #[error("unexpected character {0:?}")]
    Character(char),
    /// A type that does not exist, or that cannot be used here.
    #[error("unknown type {0}; a reference is written CLASS REF NAME")]
    Type(String),
}

/// A declaration and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared<T> {
    /// Line, from 1.
    pub line: u32,
    /// What is declared.
    pub what: T,
}

/// What a file may hold.
#[derive(Clone, Debug, PartialEq)]
pub enum Declaration {
    /// `#pragma include ("FILE")`.
    Include(String),
    /// `#pragma namespace ("NAME")`.
    Namespace(String),
    /// Any other pragma; it changes nothing for us.
    Pragma(String),
    /// `Qualifier ...;`.
    Qualifier(QualifierText),
    /// `class ...;`.
    Class(ClassText),
}

/// A qualifier declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct QualifierText {
    /// Name of the qualifier, as written.
    pub name: String,
    /// Type and whether it is an array.
    pub kind: Kind,
    /// Value when none is written.
    pub default: Literal,
    /// Scopes, as written.
    pub scopes: Vec<String>,
    /// Flavors, as written.
    pub flavors: Vec<String>,
}

/// A class declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassText {
    /// Name of the class, as written.
    pub name: String,
    /// Name of the superclass, as written; `None` for a class at the top.
    pub superclass: Option<String>,
    /// Qualifiers of the class itself, in the order they are written.
    pub qualifiers: Vec<QualifierUse>,
    /// Properties and references.
    pub properties: Vec<Declared<PropertyText>>,
    /// Methods that are declared here, without inherited ones.
    pub methods: Vec<Declared<MethodText>>,
}

/// `NAME`, `NAME (VALUE)` or `NAME {VALUES}` in a list of qualifiers.
#[derive(Clone, Debug, PartialEq)]
pub struct QualifierUse {
    /// Name of the qualifier, as written; whether it is declared is not checked here.
    pub name: String,
    /// Value; `None` when none is written.
    pub value: Option<Literal>,
}

/// A property or a reference.
#[derive(Clone, Debug, PartialEq)]
pub struct PropertyText {
    /// Name of the property, as written.
    pub name: String,
    /// Declared type; for a reference with the class that it leads to.
    pub kind: Kind,
    /// Qualifiers of the property, in the order they are written.
    pub qualifiers: Vec<QualifierUse>,
    /// Value of new instances; `None` when none is written.
    pub default: Option<Literal>,
}

/// A method.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodText {
    /// Name of the method, as written.
    pub name: String,
    /// Type of the return value, no reference and no array.
    pub returns: crate::value::CimType,
    /// Qualifiers of the method, in the order they are written.
    pub qualifiers: Vec<QualifierUse>,
    /// Parameters in the order of the declaration; that is also the order in which they are shown.
    pub parameters: Vec<ParameterText>,
}

/// A parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterText {
    /// Name of the parameter, as written.
    pub name: String,
    /// Declared type; for a reference with the class that it leads to.
    pub kind: Kind,
    /// Qualifiers of the parameter (`IN`, `OUT`, ...), in the order they are written.
    pub qualifiers: Vec<QualifierUse>,
}

/// A type as it is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Type of the value, or of each item of an array.
    pub base: crate::value::CimType,
    /// Class that a reference leads to.
    pub reference_class: Option<String>,
    /// Whether it is an array; a size in the brackets is not kept.
    pub array: bool,
}

/// A value before its type is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `NULL`.
    Null,
    /// `TRUE` or `FALSE`.
    Boolean(bool),
    /// Any integer.
    Integer(i128),
    /// A number with a point.
    Real(f64),
    /// A character in single quotes.
    Character(char),
    /// Strings, joined.
    Text(String),
    /// `{...}`, without arrays in it.
    List(Vec<Literal>),
}
