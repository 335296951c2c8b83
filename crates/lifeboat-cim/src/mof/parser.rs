//! Tokens to declarations. The grammar nests nowhere, so the parser does not recurse; it looks one token ahead.

use super::lexer::{Lexer, Token};
use super::{
    ClassText, Declaration, Declared, Kind, Literal, MethodText, MofError, MofProblem, ParameterText,
    PropertyText, QualifierText, QualifierUse,
};
use crate::value::CimType;

/// Reads one file. `file` is only used in errors.
///
/// # Errors
/// The first thing that is not MOF, with its line.
pub fn parse(file: &str, text: &str) -> Result<Vec<Declared<Declaration>>, MofError> {
    let mut parser = Parser::new(file, text)?;
    let mut declarations = Vec::new();
    while parser.token != Token::End {
        let line = parser.line;
        let what = parser.declaration()?;
        declarations.push(Declared { line, what });
    }
    Ok(declarations)
}

struct Parser<'a> {
    lexer: Lexer<'a>,
    /// The token to be taken next, and its line.
    token: Token,
    line: u32,
}

/// A property or a method, which look alike up to the name.
enum Feature {
    Property(PropertyText),
    Method(MethodText),
}

impl<'a> Parser<'a> {
    fn new(file: &'a str, text: &'a str) -> Result<Self, MofError> {
        let mut lexer = Lexer::new(file, text);
        let (token, line) = lexer.next()?;
        Ok(Self { lexer, token, line })
    }

    fn take(&mut self) -> Result<Token, MofError> {
        let (token, line) = self.lexer.next()?;
        self.line = line;
        Ok(std::mem::replace(&mut self.token, token))
    }

    fn expected<T>(&self, wanted: &'static str) -> Result<T, MofError> {
        let found = self.token.to_string();
        let problem = MofProblem::Expected { wanted, found };
        Err(self.lexer.error_at(self.line, problem))
    }

    fn mark(&mut self, mark: char, wanted: &'static str) -> Result<(), MofError> {
        if self.taken(mark)? {
            return Ok(());
        }
        self.expected(wanted)
    }

    /// Takes the mark if it is next.
    fn taken(&mut self, mark: char) -> Result<bool, MofError> {
        let there = self.token == Token::Mark(mark);
        if there {
            self.take()?;
        }
        Ok(there)
    }

    fn word(&mut self, wanted: &'static str) -> Result<String, MofError> {
        let Token::Word(word) = &self.token else {
            return self.expected(wanted);
        };
        let word = word.clone();
        self.take()?;
        Ok(word)
    }

    fn is_word(&self, keyword: &str) -> bool {
        matches!(&self.token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// `ITEM, ITEM, ... CLOSE`; the opening mark was taken.
    fn list<T>(
        &mut self,
        close: char,
        wanted: &'static str,
        mut item: impl FnMut(&mut Self) -> Result<T, MofError>,
    ) -> Result<Vec<T>, MofError> {
        let mut items = vec![item(self)?];
        while self.taken(',')? {
            items.push(item(self)?);
        }
        self.mark(close, wanted)?;
        Ok(items)
    }

    fn declaration(&mut self) -> Result<Declaration, MofError> {
        if self.token == Token::Pragma {
            return self.pragma();
        }
        if self.is_word("qualifier") {
            self.take()?;
            return Ok(Declaration::Qualifier(self.qualifier_declaration()?));
        }
        let qualifiers = self.qualifiers()?;
        if self.is_word("class") {
            self.take()?;
            return Ok(Declaration::Class(self.class(qualifiers)?));
        }
        self.expected("a class, a qualifier declaration or #pragma")
    }

    fn pragma(&mut self) -> Result<Declaration, MofError> {
        self.take()?;
        let name = self.word("the name of the pragma")?;
        self.mark('(', "( and the parameter of the pragma")?;
        let Some(value) = self.strings()? else {
            return self.expected("a string");
        };
        self.mark(')', ") after the parameter of the pragma")?;
        Ok(match name.to_ascii_lowercase().as_str() {
            "include" => Declaration::Include(value),
            "namespace" => Declaration::Namespace(value),
            _ => Declaration::Pragma(name),
        })
    }

    /// Strings in a row, joined.
    fn strings(&mut self) -> Result<Option<String>, MofError> {
        let mut joined: Option<String> = None;
        while let Token::Text(text) = &self.token {
            joined.get_or_insert_default().push_str(text);
            self.take()?;
        }
        Ok(joined)
    }

    fn qualifier_declaration(&mut self) -> Result<QualifierText, MofError> {
        let name = self.word("the name of the qualifier")?;
        self.mark(':', ": and the type of the qualifier")?;
        let line = self.line;
        let type_name = self.word("the type of the qualifier")?;
        let base = self.simple_type(&type_name, line)?;
        let array = self.brackets()?;
        let default = if self.taken('=')? {
            self.literal()?
        } else {
            Literal::Null
        };
        self.mark(',', ", and the scope of the qualifier")?;
        let scopes = self.words("scope", "Scope")?;
        let flavors = if self.taken(',')? {
            self.words("flavor", "Flavor")?
        } else {
            Vec::new()
        };
        self.mark(';', "; after the qualifier declaration")?;
        let kind = Kind {
            base,
            reference_class: None,
            array,
        };
        Ok(QualifierText {
            name,
            kind,
            default,
            scopes,
            flavors,
        })
    }

    /// `KEYWORD(WORD, ...)`.
    fn words(&mut self, keyword: &str, wanted: &'static str) -> Result<Vec<String>, MofError> {
        if !self.is_word(keyword) {
            return self.expected(wanted);
        }
        self.take()?;
        self.mark('(', "(")?;
        self.list(')', ")", |parser| parser.word("a scope or flavor"))
    }

    /// `[...]` before a class, a property, a method or a parameter; or nothing.
    fn qualifiers(&mut self) -> Result<Vec<QualifierUse>, MofError> {
        if !self.taken('[')? {
            return Ok(Vec::new());
        }
        self.list(']', "] after the qualifiers", Self::qualifier)
    }

    fn qualifier(&mut self) -> Result<QualifierUse, MofError> {
        let name = self.word("a qualifier")?;
        let value = match self.token {
            Token::Mark('(') => {
                self.take()?;
                let value = self.literal()?;
                self.mark(')', ") after the value of the qualifier")?;
                Some(value)
            }
            Token::Mark('{') => Some(self.literal()?),
            _ => None,
        };
        Ok(QualifierUse { name, value })
    }

    fn class(&mut self, qualifiers: Vec<QualifierUse>) -> Result<ClassText, MofError> {
        let name = self.word("the name of the class")?;
        let superclass = if self.taken(':')? {
            Some(self.word("the superclass")?)
        } else {
            None
        };
        self.mark('{', "{ and the properties and methods of the class")?;
        let mut class = ClassText {
            name,
            superclass,
            qualifiers,
            properties: Vec::new(),
            methods: Vec::new(),
        };
        while !self.taken('}')? {
            let line = self.line;
            match self.feature()? {
                Feature::Property(what) => class.properties.push(Declared { line, what }),
                Feature::Method(what) => class.methods.push(Declared { line, what }),
            }
        }
        self.mark(';', "; after the class")?;
        Ok(class)
    }

    fn feature(&mut self) -> Result<Feature, MofError> {
        let qualifiers = self.qualifiers()?;
        let line = self.line;
        let mut kind = self.kind("a property, a method or } at the end of the class")?;
        let name = self.word("the name of the property or method")?;
        if self.taken('(')? {
            if kind.base == CimType::Reference {
                let problem = MofProblem::Type("REF for a return value".into());
                return Err(self.lexer.error_at(line, problem));
            }
            let parameters = if self.taken(')')? {
                Vec::new()
            } else {
                self.list(')', ") after the parameters", Self::parameter)?
            };
            self.mark(';', "; after the method")?;
            return Ok(Feature::Method(MethodText {
                name,
                returns: kind.base,
                qualifiers,
                parameters,
            }));
        }
        kind.array = self.brackets()?;
        let default = if self.taken('=')? {
            Some(self.literal()?)
        } else {
            None
        };
        self.mark(';', "; after the property")?;
        Ok(Feature::Property(PropertyText {
            name,
            kind,
            qualifiers,
            default,
        }))
    }

    fn parameter(&mut self) -> Result<ParameterText, MofError> {
        let qualifiers = self.qualifiers()?;
        let mut kind = self.kind("a parameter")?;
        let name = self.word("the name of the parameter")?;
        kind.array = self.brackets()?;
        Ok(ParameterText {
            name,
            kind,
            qualifiers,
        })
    }

    /// `TYPE` or `CLASS REF`.
    fn kind(&mut self, wanted: &'static str) -> Result<Kind, MofError> {
        let line = self.line;
        let word = self.word(wanted)?;
        let (base, reference_class) = if self.is_word("ref") {
            self.take()?;
            (CimType::Reference, Some(word))
        } else {
            (self.simple_type(&word, line)?, None)
        };
        Ok(Kind {
            base,
            reference_class,
            array: false,
        })
    }

    fn simple_type(&self, name: &str, line: u32) -> Result<CimType, MofError> {
        let found = CimType::from_name(name).filter(|t| *t != CimType::Reference);
        found.ok_or_else(|| self.lexer.error_at(line, MofProblem::Type(name.to_owned())))
    }

    /// `[]`, or `[SIZE]` whose size is of no use to anybody.
    fn brackets(&mut self) -> Result<bool, MofError> {
        if !self.taken('[')? {
            return Ok(false);
        }
        if matches!(self.token, Token::Integer(_)) {
            self.take()?;
        }
        self.mark(']', "] of the array")?;
        Ok(true)
    }

    fn literal(&mut self) -> Result<Literal, MofError> {
        if !self.taken('{')? {
            return self.single_literal();
        }
        if self.taken('}')? {
            return Ok(Literal::List(Vec::new()));
        }
        let items = self.list('}', "} after the values", Self::single_literal)?;
        Ok(Literal::List(items))
    }

    fn single_literal(&mut self) -> Result<Literal, MofError> {
        if let Some(text) = self.strings()? {
            return Ok(Literal::Text(text));
        }
        let literal = match &self.token {
            Token::Integer(n) => Literal::Integer(*n),
            Token::Real(n) => Literal::Real(*n),
            Token::Character(c) => Literal::Character(*c),
            Token::Word(word) => match word.to_ascii_lowercase().as_str() {
                "true" => Literal::Boolean(true),
                "false" => Literal::Boolean(false),
                "null" => Literal::Null,
                _ => return self.expected("a value"),
            },
            Token::Text(_) | Token::Pragma | Token::Mark(_) | Token::End => return self.expected("a value"),
        };
        self.take()?;
        Ok(literal)
    }
}
