//! WQL, the query language of WMI, as management clients write it: `SELECT`, `ASSOCIATORS OF` and `REFERENCES OF`. This is
//! the language: its parts, how it is read ([`parse()`]) and whether an instance meets a condition. Which instances there are
//! and what stands in relation to what is the object manager's business.
//!
//! Deliberately absent: joins, ordering, aggregation (`GROUP WITHIN`, `HAVING`), and queries for classes.

mod eval;
mod lex;
mod like;
mod parse;

use std::fmt;
use std::time::Duration;

use crate::path::ObjectPath;
use crate::value::Value;

pub use eval::SystemColumns;
pub use like::Pattern;
pub use parse::{QueryError, parse};

/// Longest query, in bytes.
pub const MAX_LENGTH: usize = 16 * 1024;
/// Deepest nesting of parentheses and `NOT`.
pub const MAX_DEPTH: usize = 64;

/// A query.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    /// `SELECT columns FROM class WITHIN n WHERE condition`.
    Select(Select),
    /// `ASSOCIATORS OF {path} WHERE ...`: the other ends.
    Associators(Related),
    /// `REFERENCES OF {path} WHERE ...`: the associations.
    References(Related),
}

/// `SELECT`.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// Class as written; instances of derived classes count too.
    pub class: String,
    /// What is wanted of each instance.
    pub columns: Columns,
    /// Only instances for which this is true.
    pub condition: Option<Condition>,
    /// In event queries: how late an event may be noticed.
    pub within: Option<Duration>,
}

/// What is wanted of each instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Columns {
    /// `*`.
    All,
    /// These, at least one.
    Named(Vec<Column>),
}

/// A property, a property of an embedded instance (`TargetInstance.JobState`), or a system column (`__PATH`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Names from the outermost to the innermost, as written; at least one.
    pub names: Vec<String>,
}

/// What instances are asked for by their relation to one. All names are as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Related {
    /// From where.
    pub source: ObjectPath,
    /// `AssocClass`: only through this association or one derived from it. Never in `REFERENCES OF`.
    pub association: Option<String>,
    /// `ResultClass`: only results of this class or derived from it.
    pub result: Option<String>,
    /// `Role`: the property of the association that names the source.
    pub role: Option<String>,
    /// `ResultRole`: the property that names the other end. Never in `REFERENCES OF`.
    pub result_role: Option<String>,
}

/// A condition. Comparing with null is neither true nor false, and only what is true is selected.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// All of them (`AND`), at least two.
    All(Vec<Condition>),
    /// One of them (`OR`), at least two.
    Any(Vec<Condition>),
    /// Not so.
    Not(Box<Condition>),
    /// A comparison; at least one side is a column.
    Compare {
        /// Left side.
        left: Operand,
        /// Which comparison of the two sides makes the condition true.
        operator: Operator,
        /// Right side.
        right: Operand,
    },
    /// `column LIKE 'pattern'`.
    Like {
        /// The column whose text is matched.
        column: Column,
        /// The pattern.
        pattern: Pattern,
    },
    /// `column IS NULL`, also written `column = NULL`.
    IsNull(Column),
    /// `column ISA 'class'`: an embedded instance is of this class or one derived from it. `__THIS` is the instance itself.
    Isa {
        /// The column with the embedded instance, or `__THIS`.
        column: Column,
        /// Class as written.
        class: String,
    },
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A column.
    Column(Column),
    /// Text, a number or a boolean.
    Literal(Value),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `=`.
    Equal,
    /// `!=` or `<>`.
    NotEqual,
    /// `<`.
    Less,
    /// `<=`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Select(select) => write!(f, "{select}"),
            Self::Associators(related) => write!(f, "ASSOCIATORS OF {related}"),
            Self::References(related) => write!(f, "REFERENCES OF {related}"),
        }
    }
}

impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SELECT ")?;
        match &self.columns {
            Columns::All => f.write_str("*")?,
            Columns::Named(columns) => separated(f, columns, ", ")?,
        }
        write!(f, " FROM {}", self.class)?;
        if let Some(within) = self.within {
            write!(f, " WITHIN {}", within.as_secs_f64())?;
        }
        match &self.condition {
            Some(condition) => {
                f.write_str(" WHERE ")?;
                condition.bare(f)
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Related {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.source)?;
        let terms = [
            ("AssocClass", &self.association),
            ("ResultClass", &self.result),
            ("Role", &self.role),
            ("ResultRole", &self.result_role),
        ];
        let mut word = " WHERE";
        for (name, value) in terms {
            if let Some(value) = value {
                write!(f, "{word} {name} = ")?;
                quoted(f, value)?;
                word = "";
            }
        }
        Ok(())
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        separated(f, &self.names, ".")
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(_) | Self::Any(_) => {
                f.write_str("(")?;
                self.bare(f)?;
                f.write_str(")")
            }
            Self::Not(part) => match part.as_ref() {
                Self::IsNull(column) => write!(f, "{column} IS NOT NULL"),
                part => write!(f, "NOT {part}"),
            },
            Self::Compare {
                left,
                operator,
                right,
            } => write!(f, "{left} {} {right}", operator.sign()),
            Self::Like { column, pattern } => {
                write!(f, "{column} LIKE ")?;
                quoted(f, pattern.text())
            }
            Self::IsNull(column) => write!(f, "{column} IS NULL"),
            Self::Isa { column, class } => {
                write!(f, "{column} ISA ")?;
                quoted(f, class)
            }
        }
    }
}

impl Condition {
    /// Without parentheses around it. No more of them are written than are needed, or what is as deep as can be read would
    /// be deeper once it is printed.
    fn bare(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, by) = match self {
            Self::All(parts) => (parts, " AND "),
            Self::Any(parts) => (parts, " OR "),
            other => return write!(f, "{other}"),
        };
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                f.write_str(by)?;
            }
            match (self, part) {
                (Self::Any(_), Self::All(_)) => part.bare(f)?,
                _ => write!(f, "{part}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Column(column) => write!(f, "{column}"),
            Self::Literal(Value::Text(text)) => quoted(f, text),
            Self::Literal(Value::Boolean(true)) => f.write_str("TRUE"),
            Self::Literal(Value::Boolean(false)) => f.write_str("FALSE"),
            Self::Literal(Value::Unsigned(n)) => write!(f, "{n}"),
            Self::Literal(Value::Signed(n)) => write!(f, "{n}"),
            // With a point or an exponent, so that it reads back as the same kind of number.
            Self::Literal(Value::Real(n)) => write!(f, "{n:?}"),
            Self::Literal(
                Value::DateTime(_) | Value::Reference(_) | Value::Instance(_) | Value::Array(_),
            ) => f.write_str("NULL"),
        }
    }
}

impl Operator {
    /// How it is written.
    #[must_use]
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

impl Column {
    /// The column of this name in the instance itself.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            names: vec![name.to_owned()],
        }
    }
}

fn separated<T: fmt::Display>(f: &mut fmt::Formatter<'_>, parts: &[T], by: &str) -> fmt::Result {
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            f.write_str(by)?;
        }
        write!(f, "{part}")?;
    }
    Ok(())
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("'")?;
    f.write_str(&text.replace('\\', "\\\\").replace('\'', "\\'"))?;
    f.write_str("'")
}
