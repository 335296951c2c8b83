//! MOF text to tokens. Every token is taken in time linear in its length, and nothing recurses.

use super::{MofError, MofProblem};

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name or a keyword.
    Word(String),
    /// A string; several in a row are joined by the parser.
    Text(String),
    /// An integer in any notation.
    Integer(i128),
    /// A number with a point.
    Real(f64),
    /// A character in single quotes.
    Character(char),
    /// `#pragma`.
    Pragma,
    /// One of `( ) { } [ ] ; , : =`.
    Mark(char),
    /// The end of the file.
    End,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(word) => write!(f, "{}", short(word)),
            Self::Text(text) => write!(f, "the string \"{}\"", short(text)),
            Self::Integer(n) => write!(f, "the number {n}"),
            Self::Real(n) => write!(f, "the number {n}"),
            Self::Character(c) => write!(f, "the character {c:?}"),
            Self::Pragma => write!(f, "#pragma"),
            Self::Mark(c) => write!(f, "{c}"),
            Self::End => write!(f, "the end of the file"),
        }
    }
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

/// Cuts a file into tokens.
pub(super) struct Lexer<'a> {
    file: &'a str,
    rest: &'a str,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self {
            file,
            rest: text.strip_prefix('\u{feff}').unwrap_or(text),
            line: 1,
        }
    }

    /// An error on a line of this file.
    pub(super) fn error_at(&self, line: u32, problem: MofProblem) -> MofError {
        MofError {
            file: self.file.to_owned(),
            line,
            problem,
        }
    }

    fn error(&self, problem: MofProblem) -> MofError {
        self.error_at(self.line, problem)
    }

    /// The next token and the line that it begins on.
    pub(super) fn next(&mut self) -> Result<(Token, u32), MofError> {
        self.skip_blanks()?;
        let line = self.line;
        let Some(c) = self.rest.chars().next() else {
            return Ok((Token::End, line));
        };
        let token = match c {
            '(' | ')' | '{' | '}' | '[' | ']' | ';' | ',' | ':' | '=' => {
                self.advance(1);
                Token::Mark(c)
            }
            '"' => Token::Text(self.quoted('"', "string")?),
            '\'' => self.character()?,
            '#' => self.pragma()?,
            '0'..='9' | '+' | '-' | '.' => self.number()?,
            c if word_start(c) => {
                let len = self.rest.find(|c| !word_char(c)).unwrap_or(self.rest.len());
                let word = self.rest[..len].to_owned();
                self.advance(len);
                Token::Word(word)
            }
            c => return Err(self.error(MofProblem::Character(c))),
        };
        Ok((token, line))
    }

    /// Takes bytes that hold no line end.
    fn advance(&mut self, len: usize) {
        self.rest = &self.rest[len..];
    }

    fn skip_blanks(&mut self) -> Result<(), MofError> {
        loop {
            let trimmed = self.rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
            self.skip_to(self.rest.len() - trimmed.len());
            if self.rest.starts_with("//") {
                let len = self.rest.find('\n').unwrap_or(self.rest.len());
                self.skip_to(len);
            } else if let Some(comment) = self.rest.strip_prefix("/*") {
                let end = comment.find("*/");
                let end = end.ok_or_else(|| self.error(MofProblem::Unterminated("comment")))?;
                self.skip_to(end + 4);
            } else {
                return Ok(());
            }
        }
    }

    /// Takes bytes and counts the lines in them.
    fn skip_to(&mut self, len: usize) {
        let lines = self.rest[..len].bytes().filter(|&b| b == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.advance(len);
    }

    fn pragma(&mut self) -> Result<Token, MofError> {
        let word: String = self.rest.chars().take(7).collect();
        if !word.eq_ignore_ascii_case("#pragma") {
            return Err(self.error(MofProblem::Character('#')));
        }
        self.advance(word.len());
        Ok(Token::Pragma)
    }

    fn character(&mut self) -> Result<Token, MofError> {
        let text = self.quoted('\'', "character")?;
        let mut chars = text.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(Token::Character(c)),
            (_, _) => Err(self.error(MofProblem::Expected {
                wanted: "one character in single quotes",
                found: short(&text),
            })),
        }
    }

    fn quoted(&mut self, quote: char, what: &'static str) -> Result<String, MofError> {
        let mut text = String::new();
        let mut chars = self.rest[1..].char_indices();
        let mut end = None;
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    end = Some(at + 2);
                    break;
                }
                '\n' | '\r' => break,
                '\\' => text.push(escape(&mut chars).map_err(|p| self.error(p))?),
                c => text.push(c),
            }
        }
        let end = end.ok_or_else(|| self.error(MofProblem::Unterminated(what)))?;
        self.advance(end);
        Ok(text)
    }

    fn number(&mut self) -> Result<Token, MofError> {
        let signs = usize::from(self.rest.starts_with(['+', '-']));
        let body = &self.rest[signs..];
        let number_char = |c: char| c.is_ascii_alphanumeric() || c == '.';
        let mut len = body.find(|c| !number_char(c)).unwrap_or(body.len());
        let real = body[..len].contains('.');
        // The exponent's sign ends the run above.
        if real && body[..len].ends_with(['e', 'E']) && body[len..].starts_with(['+', '-']) {
            let digits = &body[len + 1..];
            let more = digits.find(|c: char| !c.is_ascii_digit());
            len += 1 + more.unwrap_or(digits.len());
        }
        let text = &self.rest[..signs + len];
        let token = if real { real_number(text) } else { integer(text) };
        let token = token.ok_or_else(|| self.error(MofProblem::Number(short(text))))?;
        self.advance(text.len());
        Ok(token)
    }
}

fn word_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The character that a backslash and what follows stand for.
fn escape(chars: &mut std::str::CharIndices<'_>) -> Result<char, MofProblem> {
    let Some((_, c)) = chars.next() else {
        return Err(MofProblem::Unterminated("escape sequence"));
    };
    Ok(match c {
        'b' => '\u{8}',
        't' => '\t',
        'n' => '\n',
        'f' => '\u{c}',
        'r' => '\r',
        '"' | '\'' | '\\' => c,
        'x' | 'X' => {
            let digits = chars.as_str().chars().take(4);
            let digits = digits.take_while(char::is_ascii_hexdigit).count();
            let code = u32::from_str_radix(&chars.as_str()[..digits], 16);
            for _ in 0..digits {
                chars.next();
            }
            code.ok().and_then(char::from_u32).ok_or(MofProblem::Escape(c))?
        }
        c => return Err(MofProblem::Escape(c)),
    })
}

fn real_number(text: &str) -> Option<Token> {
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(Token::Real(number))
}

/// Decimal, `0x` hexadecimal, `0` octal or binary with a `b` at the end, within what some CIM type holds.
fn integer(text: &str) -> Option<Token> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = if let Some(hex) = lower.strip_prefix("0x") {
        (16, hex)
    } else if let Some(binary) = lower.strip_suffix('b') {
        (2, binary)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, lower.as_str())
    };
    // from_str_radix would take a second sign.
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, radix).ok()?);
    let number = if negative { -number } else { number };
    (number >= i128::from(i64::MIN)).then_some(Token::Integer(number))
}
