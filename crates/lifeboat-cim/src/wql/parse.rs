//! Reads WQL. The grammar is small enough for one function for each rule; depth is counted, so that no query can exhaust
//! the stack.

use std::time::Duration;

use super::lex::{Lexer, Token, Unreadable};
use super::{
    Column, Columns, Condition, MAX_DEPTH, MAX_LENGTH, Operand, Operator, Pattern, Query, Related, Select,
};
use crate::path::ObjectPath;
use crate::value::Value;

/// What is wrong with a query; always the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Nothing in it.
    #[error("the query is empty; it begins with SELECT, ASSOCIATORS OF or REFERENCES OF")]
    Empty,
    /// Too long.
    #[error("the query is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Too many parentheses or `NOT` inside each other.
    #[error("at character {at}: conditions are nested deeper than {MAX_DEPTH}")]
    TooDeep {
        /// Character, counted from 1.
        at: usize,
    },
    /// Something else was expected.
    #[error("at character {at}: expected {expected}, found {found}")]
    Unexpected {
        /// Character, counted from 1.
        at: usize,
        /// What the grammar wants at this place, to be read after "expected".
        expected: &'static str,
        /// What is there instead, shortened.
        found: String,
    },
    /// Something WQL has and this server does not offer.
    #[error("at character {at}: {what} is not supported here")]
    NotSupported {
        /// Character, counted from 1.
        at: usize,
        /// The part of WQL, to be read before "is not supported here".
        what: &'static str,
    },
    /// The path in `OF {...}` is none.
    #[error("at character {at}: {message}")]
    Path {
        /// Character, counted from 1.
        at: usize,
        /// What is wrong with the path.
        message: String,
    },
}

type Parsed<T> = Result<T, QueryError>;

/// Reads a query.
///
/// # Errors
/// Anything that is not a query of this language, with its place and what was expected there.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    if text.len() > MAX_LENGTH {
        return Err(QueryError::TooLong);
    }
    if text.trim().is_empty() {
        return Err(QueryError::Empty);
    }
    let mut parser = Parser {
        text,
        lexer: Lexer::new(text),
        token: Token::End,
        at: 0,
    };
    parser.advance()?;
    parser.query()
}

struct Parser<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
    token: Token,
    /// Byte at which the token begins.
    at: usize,
}

impl Parser<'_> {
    fn advance(&mut self) -> Parsed<Token> {
        let next = self.lexer.next().map_err(|e| self.unreadable(e))?;
        self.at = next.0;
        Ok(std::mem::replace(&mut self.token, next.1))
    }

    /// Bytes to characters, counted from 1, as a person would.
    fn character(&self, at: usize) -> usize {
        self.text.get(..at).map_or(0, |t| t.chars().count()) + 1
    }

    fn unreadable(&self, e: Unreadable) -> QueryError {
        QueryError::Unexpected {
            at: self.character(e.at),
            expected: e.expected,
            found: e.found,
        }
    }

    fn unexpected<T>(&self, expected: &'static str) -> Parsed<T> {
        Err(QueryError::Unexpected {
            at: self.character(self.at),
            expected,
            found: self.token.shown(),
        })
    }

    fn not_supported<T>(&self, what: &'static str) -> Parsed<T> {
        let at = self.character(self.at);
        Err(QueryError::NotSupported { at, what })
    }

    fn at_word(&self, word: &str) -> bool {
        matches!(&self.token, Token::Word(w) if w.eq_ignore_ascii_case(word))
    }

    /// Goes over this word if it is next.
    fn word(&mut self, word: &str) -> Parsed<bool> {
        let there = self.at_word(word);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn sign(&mut self, sign: &str) -> Parsed<bool> {
        let there = matches!(self.token, Token::Sign(s) if s == sign);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    fn query(&mut self) -> Parsed<Query> {
        let query = if self.word("SELECT")? {
            Query::Select(self.select()?)
        } else if self.word("ASSOCIATORS")? {
            Query::Associators(self.related(true)?)
        } else if self.word("REFERENCES")? {
            Query::References(self.related(false)?)
        } else {
            return self.unexpected("SELECT, ASSOCIATORS OF or REFERENCES OF");
        };
        match self.token {
            Token::End => Ok(query),
            _ => self.unexpected("the end of the query"),
        }
    }

    fn select(&mut self) -> Parsed<Select> {
        let columns = if self.sign("*")? {
            Columns::All
        } else {
            let mut columns = vec![self.column("* or the name of a column")?];
            while self.sign(",")? {
                columns.push(self.column("the name of a column")?);
            }
            Columns::Named(columns)
        };
        if !self.word("FROM")? {
            return self.unexpected("FROM");
        }
        let class = self.name("the name of a class")?;
        let within = if self.word("WITHIN")? {
            Some(self.seconds()?)
        } else {
            None
        };
        let condition = if self.word("WHERE")? {
            Some(self.any(0)?)
        } else {
            None
        };
        if self.at_word("GROUP") || self.at_word("HAVING") || self.at_word("ORDER") {
            return self.not_supported("grouping, aggregation and ordering of results");
        }
        Ok(Select {
            class,
            columns,
            condition,
            within,
        })
    }

    fn seconds(&mut self) -> Parsed<Duration> {
        let seconds = match &self.token {
            Token::Number(n) => n.parse().ok(),
            _ => None,
        };
        match seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
            Some(within) => {
                self.advance()?;
                Ok(within)
            }
            None => self.unexpected("a number of seconds"),
        }
    }

    /// A name that is not one of the words that separate the parts of a query.
    fn name(&mut self, expected: &'static str) -> Parsed<String> {
        const RESERVED: [&str; 11] = [
            "FROM", "WHERE", "WITHIN", "AND", "OR", "NOT", "IS", "LIKE", "ISA", "NULL", "SELECT",
        ];
        match &self.token {
            Token::Word(w) if !RESERVED.iter().any(|r| r.eq_ignore_ascii_case(w)) => {
                let name = w.clone();
                self.advance()?;
                Ok(name)
            }
            _ => self.unexpected(expected),
        }
    }

    fn column(&mut self, expected: &'static str) -> Parsed<Column> {
        let mut names = vec![self.name(expected)?];
        while self.sign(".")? {
            names.push(self.name("the name of a property")?);
        }
        Ok(Column { names })
    }

    fn any(&mut self, depth: usize) -> Parsed<Condition> {
        let mut parts = vec![self.all(depth)?];
        while self.word("OR")? {
            parts.push(self.all(depth)?);
        }
        Ok(alone(parts).unwrap_or_else(Condition::Any))
    }

    fn all(&mut self, depth: usize) -> Parsed<Condition> {
        let mut parts = vec![self.term(depth)?];
        while self.word("AND")? {
            parts.push(self.term(depth)?);
        }
        Ok(alone(parts).unwrap_or_else(Condition::All))
    }

    fn term(&mut self, depth: usize) -> Parsed<Condition> {
        if depth > MAX_DEPTH {
            let at = self.character(self.at);
            return Err(QueryError::TooDeep { at });
        }
        if self.word("NOT")? {
            return Ok(Condition::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.sign("(")? {
            let inside = self.any(depth + 1)?;
            return if self.sign(")")? {
                Ok(inside)
            } else {
                self.unexpected("AND, OR or a closing parenthesis")
            };
        }
        self.predicate()
    }

    fn predicate(&mut self) -> Parsed<Condition> {
        let left = self.operand("a column or a value")?;
        let column = match &left {
            Some(Operand::Column(column)) => Some(column.clone()),
            Some(Operand::Literal(_)) | None => None,
        };
        if let Some(column) = column {
            if self.word("IS")? {
                let not = self.word("NOT")?;
                return if self.word("NULL")? {
                    Ok(null(column, !not))
                } else {
                    self.unexpected("NULL or NOT NULL")
                };
            }
            if self.word("LIKE")? {
                let pattern = self.text("a pattern in quotes")?;
                let pattern = Pattern::new(&pattern);
                return Ok(Condition::Like { column, pattern });
            }
            if self.word("ISA")? {
                let class = match &self.token {
                    Token::Word(_) => self.name("the name of a class")?,
                    _ => self.text("the name of a class")?,
                };
                return Ok(Condition::Isa { column, class });
            }
        }
        let Some(operator) = self.operator()? else {
            return self.unexpected("=, <>, <, <=, >, >=, LIKE, IS or ISA");
        };
        let at = self.at;
        let right = self.operand("a value or a column")?;
        match (left, right) {
            (None, Some(Operand::Column(column))) | (Some(Operand::Column(column)), None) => match operator {
                Operator::Equal => Ok(null(column, true)),
                Operator::NotEqual => Ok(null(column, false)),
                _ => self.misplaced(at, "a value that has an order", "NULL"),
            },
            (Some(left @ Operand::Column(_)), Some(right))
            | (Some(left), Some(right @ Operand::Column(_))) => Ok(Condition::Compare {
                left,
                operator,
                right,
            }),
            (None | Some(Operand::Literal(_)), None | Some(Operand::Literal(_))) => {
                self.misplaced(at, "a column on one side of the comparison", "a second value")
            }
        }
    }

    fn misplaced<T>(&self, at: usize, expected: &'static str, found: &str) -> Parsed<T> {
        Err(QueryError::Unexpected {
            at: self.character(at),
            expected,
            found: found.to_owned(),
        })
    }

    fn operator(&mut self) -> Parsed<Option<Operator>> {
        let Token::Sign(sign) = self.token else {
            return Ok(None);
        };
        let operator = match sign {
            "=" => Operator::Equal,
            "<>" => Operator::NotEqual,
            "<" => Operator::Less,
            "<=" => Operator::LessOrEqual,
            ">" => Operator::Greater,
            ">=" => Operator::GreaterOrEqual,
            _ => return Ok(None),
        };
        self.advance()?;
        Ok(Some(operator))
    }

    /// A column or a value; `None` is the word NULL.
    fn operand(&mut self, expected: &'static str) -> Parsed<Option<Operand>> {
        let literal = match &self.token {
            Token::Text(text) => Value::Text(text.clone()),
            Token::Number(number) => match value(number) {
                Some(value) => value,
                None => return self.unexpected("a number that 64 bits can hold"),
            },
            Token::Word(w) if w.eq_ignore_ascii_case("TRUE") => Value::Boolean(true),
            Token::Word(w) if w.eq_ignore_ascii_case("FALSE") => Value::Boolean(false),
            Token::Word(w) if w.eq_ignore_ascii_case("NULL") => {
                self.advance()?;
                return Ok(None);
            }
            Token::Word(_) => return Ok(Some(Operand::Column(self.column(expected)?))),
            Token::Braced(_) | Token::Sign(_) | Token::End => return self.unexpected(expected),
        };
        self.advance()?;
        Ok(Some(Operand::Literal(literal)))
    }

    fn text(&mut self, expected: &'static str) -> Parsed<String> {
        match &self.token {
            Token::Text(text) => {
                let text = text.clone();
                self.advance()?;
                Ok(text)
            }
            _ => self.unexpected(expected),
        }
    }

    fn related(&mut self, associators: bool) -> Parsed<Related> {
        if !self.word("OF")? {
            return self.unexpected("OF");
        }
        let Token::Braced(path) = &self.token else {
            return self.unexpected("the path of an instance in braces");
        };
        let mut source = ObjectPath::parse(path.trim()).map_err(|e| QueryError::Path {
            at: self.character(self.at),
            message: format!("the path in braces is none: {e}"),
        })?;
        // Never compared, so not kept.
        source.host = None;
        self.advance()?;
        let mut related = Related {
            source,
            association: None,
            result: None,
            role: None,
            result_role: None,
        };
        if self.word("WHERE")? {
            self.relation(&mut related, associators)?;
            while self.token != Token::End {
                self.relation(&mut related, associators)?;
            }
        }
        Ok(related)
    }

    /// One `Name = value` behind the WHERE of a relation.
    fn relation(&mut self, related: &mut Related, associators: bool) -> Parsed<()> {
        const EXPECTED: &str = "AssocClass, ResultClass, Role or ResultRole (each once)";
        const OF_REFERENCES: &str = "ResultClass or Role (each once)";
        let expected = if associators { EXPECTED } else { OF_REFERENCES };
        let Token::Word(name) = &self.token else {
            return self.unexpected(expected);
        };
        let slot = match name.to_ascii_lowercase().as_str() {
            "assocclass" if associators => &mut related.association,
            "resultclass" => &mut related.result,
            "role" => &mut related.role,
            "resultrole" if associators => &mut related.result_role,
            "classdefsonly" | "schemaonly" => return self.not_supported("asking for classes"),
            "keysonly" => return self.not_supported("KEYSONLY"),
            "requiredqualifier" | "requiredassocqualifier" => {
                return self.not_supported("asking for qualifiers");
            }
            _ => return self.unexpected(expected),
        };
        if slot.is_some() {
            return self.unexpected(expected);
        }
        self.advance()?;
        if !self.sign("=")? {
            return self.unexpected("=");
        }
        *slot = Some(match &self.token {
            Token::Text(_) => {
                let at = self.at;
                let text = self.text("a name")?;
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if text.is_empty() || !text.chars().all(plain) {
                    return self.misplaced(at, "a name", &Token::Text(text).shown());
                }
                text
            }
            _ => self.name("a name")?,
        });
        Ok(())
    }
}

/// The only part, or all of them.
fn alone(mut parts: Vec<Condition>) -> Result<Condition, Vec<Condition>> {
    match parts.pop() {
        Some(only) if parts.is_empty() => Ok(only),
        Some(last) => {
            parts.push(last);
            Err(parts)
        }
        None => Err(parts),
    }
}

fn null(column: Column, is: bool) -> Condition {
    let condition = Condition::IsNull(column);
    if is {
        condition
    } else {
        Condition::Not(Box::new(condition))
    }
}

fn value(number: &str) -> Option<Value> {
    if number.contains(['.', 'e', 'E']) {
        let real: f64 = number.parse().ok()?;
        return real.is_finite().then_some(Value::Real(real));
    }
    match number.parse() {
        Ok(n) => Some(Value::Unsigned(n)),
        // Minus zero is no negative number.
        Err(_) => number.parse::<i64>().ok().map(|n| match u64::try_from(n) {
            Ok(n) => Value::Unsigned(n),
            Err(_) => Value::Signed(n),
        }),
    }
}
