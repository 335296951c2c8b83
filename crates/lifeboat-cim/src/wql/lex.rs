//! The words of a query, one at a time, with their places. What they mean together is the parser's business.

/// A word of a query.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name or a keyword.
    Word(String),
    /// A number, as written.
    Number(String),
    /// Text between quotes, escapes resolved.
    Text(String),
    /// What stands between braces, as written.
    Braced(String),
    /// One of `* , . ( ) = <> < <= > >=`; `!=` comes as `<>`.
    Sign(&'static str),
    /// Nothing more.
    End,
}

impl Token {
    /// How an error message shows it.
    pub(super) fn shown(&self) -> String {
        let short = |text: &str| -> String {
            let cut: String = text.chars().take(40).collect();
            if cut.len() < text.len() {
                format!("{cut}...")
            } else {
                cut
            }
        };
        match self {
            Self::Word(w) => short(w),
            Self::Number(n) => short(n),
            Self::Text(t) => format!("the text '{}'", short(t)),
            Self::Braced(b) => format!("{{{}}}", short(b)),
            Self::Sign(s) => (*s).to_owned(),
            Self::End => "the end of the query".to_owned(),
        }
    }
}

/// What cannot be a word of a query.
#[derive(Debug)]
pub(super) struct Unreadable {
    /// Byte at which it begins.
    pub(super) at: usize,
    /// What was expected.
    pub(super) expected: &'static str,
    /// What is there.
    pub(super) found: String,
}

/// Cuts a query into words.
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

const SIGNS: [(&str, &str); 13] = [
    ("<>", "<>"),
    ("!=", "<>"),
    ("<=", "<="),
    (">=", ">="),
    ("=<", "<="),
    ("=>", ">="),
    ("*", "*"),
    (",", ","),
    (".", "."),
    ("(", "("),
    (")", ")"),
    ("=", "="),
    ("<", "<"),
];

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// The next word and the byte at which it begins.
    pub(super) fn next(&mut self) -> Result<(usize, Token), Unreadable> {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches(|c: char| c.is_whitespace());
        self.at += rest.len() - trimmed.len();
        let at = self.at;
        let Some(first) = trimmed.chars().next() else {
            return Ok((at, Token::End));
        };
        let token = match first {
            '\'' | '"' => self.quoted(first)?,
            '{' => self.braced()?,
            c if c.is_ascii_alphabetic() || c == '_' => {
                let end = trimmed.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                Token::Word(self.take(end.unwrap_or(trimmed.len())))
            }
            c if c.is_ascii_digit() || matches!(c, '-' | '+') => self.number()?,
            _ => self.sign(first)?,
        };
        Ok((at, token))
    }

    fn take(&mut self, len: usize) -> String {
        let taken = self.rest().get(..len).unwrap_or_default();
        self.at += len;
        taken.to_owned()
    }

    fn sign(&mut self, first: char) -> Result<Token, Unreadable> {
        let rest = self.rest();
        let known = SIGNS
            .iter()
            .chain(&[(">", ">")])
            .find(|(s, _)| rest.starts_with(s));
        let Some((written, sign)) = known else {
            return Err(Unreadable {
                at: self.at,
                expected: "a name, a value or a sign",
                found: first.into(),
            });
        };
        self.at += written.len();
        Ok(Token::Sign(sign))
    }

    /// Digits with an optional sign, fraction and exponent.
    fn number(&mut self) -> Result<Token, Unreadable> {
        let rest = self.rest();
        let bytes = rest.as_bytes();
        let digits = |from: usize| {
            let rest = bytes.get(from..).unwrap_or_default();
            from + rest.iter().take_while(|b| b.is_ascii_digit()).count()
        };
        let start = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
        let mut end = digits(start);
        let mut good = end > start;
        if good && bytes.get(end) == Some(&b'.') {
            let fraction = digits(end + 1);
            good = fraction > end + 1;
            end = fraction;
        }
        if good && matches!(bytes.get(end), Some(b'e' | b'E')) {
            let signed = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
            let exponent = digits(end + 1 + signed);
            good = exponent > end + 1 + signed;
            end = exponent;
        }
        let goes_on = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        if !good || bytes.get(end).is_some_and(goes_on) {
            return Err(Unreadable {
                at: self.at,
                expected: "a number (text is written in quotes)",
                found: rest.chars().take(20).collect(),
            });
        }
        Ok(Token::Number(self.take(end)))
    }

    /// Text in quotes. A backslash escapes quotes and itself; before anything else it stands for itself, because callers
    /// forget to double it.
    fn quoted(&mut self, quote: char) -> Result<Token, Unreadable> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.at += i + 1;
                return Ok(Token::Text(text));
            }
            let escaped = chars.peek().map(|(_, next)| *next);
            match (c, escaped) {
                ('\\', Some(next @ ('\\' | '\'' | '"'))) => {
                    text.push(next);
                    chars.next();
                }
                _ => text.push(c),
            }
        }
        Err(Unreadable {
            at: self.at,
            expected: "a closing quote",
            found: Token::End.shown(),
        })
    }

    /// Everything up to the closing brace that is not inside quotes.
    fn braced(&mut self) -> Result<Token, Unreadable> {
        let mut quote = None;
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match (quote, c) {
                (Some(_), '\\') => {
                    chars.next();
                }
                (Some(open), c) if c == open => quote = None,
                (Some(_), _) => {}
                (None, '\'' | '"') => quote = Some(c),
                (None, '}') => {
                    let inside = self.rest().get(1..i).unwrap_or_default().to_owned();
                    self.at += i + 1;
                    return Ok(Token::Braced(inside));
                }
                (None, _) => {}
            }
        }
        Err(Unreadable {
            at: self.at,
            expected: "a closing brace",
            found: Token::End.shown(),
        })
    }
}
