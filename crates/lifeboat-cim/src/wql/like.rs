//! Patterns of `LIKE`: `%` any text, `_` one character, `[a-f]` one of a set, `[^a-f]` one outside it. Without regard to case.

/// A pattern. A bracket without its counterpart stands for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Any text.
    Any,
    /// One character.
    One,
    /// This character, lower-case.
    Char(char),
    /// One character within, or outside of, these ranges of lower-case characters.
    Set {
        outside: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// The pattern that this text is.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let lower: Vec<char> = text.to_lowercase().chars().collect();
        let mut rest = lower.as_slice();
        let mut parts = Vec::new();
        while let [first, after @ ..] = rest {
            rest = after;
            parts.push(match first {
                '%' => Part::Any,
                '_' => Part::One,
                '[' => match set(after) {
                    Some((part, after)) => {
                        rest = after;
                        part
                    }
                    None => Part::Char('['),
                },
                c => Part::Char(*c),
            });
        }
        Self {
            text: text.to_owned(),
            parts,
        }
    }

    /// As written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole text fits. Takes at most (length of the text) x (length of the pattern) steps.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.to_lowercase().chars().collect();
        let (mut at, mut part) = (0, 0);
        // Where to go on when what follows the last `%` does not fit: that part, and one character later.
        let mut back: Option<(usize, usize)> = None;
        while let Some(c) = text.get(at) {
            match self.parts.get(part) {
                Some(Part::Any) => {
                    part += 1;
                    back = Some((at, part));
                }
                Some(p) if p.takes(*c) => {
                    at += 1;
                    part += 1;
                }
                _ => match back {
                    Some((from, after)) => {
                        back = Some((from + 1, after));
                        (at, part) = (from + 1, after);
                    }
                    None => return false,
                },
            }
        }
        let rest = self.parts.get(part..).unwrap_or_default();
        rest.iter().all(|p| *p == Part::Any)
    }
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Char(own) => *own == c,
            Self::Set { outside, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) != *outside
            }
        }
    }
}

/// What follows an opening bracket as a set, and what comes after it.
fn set(rest: &[char]) -> Option<(Part, &[char])> {
    let (outside, rest) = match rest {
        ['^', rest @ ..] => (true, rest),
        _ => (false, rest),
    };
    // A closing bracket that comes first belongs to the set.
    let end = rest.iter().skip(1).position(|c| *c == ']')? + 1;
    let (mut inside, after) = (rest.get(..end)?, rest.get(end + 1..)?);
    let mut ranges = Vec::new();
    loop {
        inside = match inside {
            [first, '-', last, more @ ..] => {
                ranges.push((*first, *last));
                more
            }
            [one, more @ ..] => {
                ranges.push((*one, *one));
                more
            }
            [] => break,
        };
    }
    Some((Part::Set { outside, ranges }, after))
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns_fit_whole_texts() {
        for (pattern, text, fits) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%%", "abc", true),
            ("a%", "Abc", true),
            ("%c", "abC", true),
            ("%b%", "abc", true),
            ("%ab%ab", "xabyabzab", true),
            ("%ab%ab", "xaby", false),
            ("a_c", "abc", true),
            ("a_c", "ac", false),
            ("_%", "", false),
            ("[a-c]x", "Bx", true),
            ("[A-C]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[^a-c]x", "ax", false),
            ("[xyz-]", "-", true),
            ("100[%]", "100%", true),
            ("100[%]", "1000", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("a[b", "a[b", true),
            ("É%", "école", true),
            ("Microsoft:%", "microsoft:0\\HVR\\0", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = Pattern::new(&"%a".repeat(4000));
        assert!(!pattern.matches(&"a".repeat(3999)));
    }
}
