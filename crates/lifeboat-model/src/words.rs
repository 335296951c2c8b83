//! Words of others: what another host, a guest or a file says is shown to people and stored, so it is bounded and has nothing
//! in it that a terminal obeys. Not for data, and not for names that must stay what they are: those are refused.

use serde::{Deserialize, Deserializer};

/// The most bytes of one text of another host or of a guest. Ours: an error message with a path in it has some hundred.
pub const TEXT_MAX: usize = 2048;

/// The most texts in one list of another host.
pub const TEXTS_MAX: usize = 64;

/// Whether a terminal obeys this character instead of showing it: control characters (escape sequences begin with one),
/// separators of lines and paragraphs, and what changes the order of the characters around it (Unicode's bidirectional
/// formatting).
#[must_use]
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a character takes no room, so that two names that differ in it look the same.
#[must_use]
pub fn is_unseen(c: char) -> bool {
    matches!(c, '\u{00ad}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
}

/// The text with a space for everything that a terminal obeys.
#[must_use]
pub fn shown(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { ' ' } else { c }).collect()
}

/// The text as it is kept: as it is shown, and cut to [`TEXT_MAX`] bytes, which is then said.
#[must_use]
pub fn kept(text: &str) -> String {
    const CUT: &str = " [cut]";
    if text.len() <= TEXT_MAX {
        return shown(text);
    }
    let room = TEXT_MAX - CUT.len();
    let fits = text
        .char_indices()
        .take_while(|(at, c)| at + c.len_utf8() <= room);
    let beginning: String = fits.map(|(_, c)| c).collect();
    format!("{}{CUT}", shown(&beginning))
}

/// For serde: a text of another host.
///
/// # Errors
/// It is no text.
pub fn text<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(kept(&String::deserialize(from)?))
}

/// For serde: texts of another host. Those beyond [`TEXTS_MAX`] are counted.
///
/// # Errors
/// They are no texts.
pub fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let all = Vec::<String>::deserialize(from)?;
    let mut first: Vec<String> = all.iter().take(TEXTS_MAX).map(|t| kept(t)).collect();
    if all.len() > TEXTS_MAX {
        first.pop();
        first.push(format!("and {} more", all.len() - first.len()));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Said {
        #[serde(deserialize_with = "text")]
        one: String,
        #[serde(deserialize_with = "texts")]
        many: Vec<String>,
    }

    #[test]
    fn words_are_bounded_and_control_no_terminal() {
        let long = "ä".repeat(1 << 20);
        let many = vec!["x".repeat(3000); 1000];
        let said = serde_json::json!({"one": long, "many": many});
        let said: Said = serde_json::from_value(said).unwrap();
        assert!(said.one.len() <= TEXT_MAX && said.one.ends_with("[cut]"));
        assert_eq!(said.many.len(), TEXTS_MAX);
        assert!(said.many.iter().all(|t| t.len() <= TEXT_MAX));
        assert_eq!(said.many[TEXTS_MAX - 1], "and 937 more");
        let fits = "y".repeat(TEXT_MAX);
        assert_eq!(kept(&fits), fits);
        for bad in [
            "\u{1b}[2J",
            "a\nb",
            "\u{202e}gnp.exe",
            "\u{2066}",
            "\u{9b}31m",
            "\u{2029}",
        ] {
            assert!(bad.chars().any(is_obeyed), "{bad:?}");
            assert!(!kept(bad).chars().any(is_obeyed), "{bad:?}");
        }
        for good in ["web 1 (ältere) – fr", "数据库", "שרת"] {
            assert_eq!(kept(good), good);
        }
    }
}
