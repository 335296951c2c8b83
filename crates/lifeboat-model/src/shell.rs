//! Commands that people can type as they stand: one function quotes every word that comes from somewhere else.

/// A word for a POSIX shell: as it is when the shell takes it as it is, else in single quotes.
#[must_use]
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A word that stands where a command wants an argument and no option: one that begins with `-` gets `--` before it, so
/// options have to come earlier.
#[must_use]
pub fn argument(word: &str) -> String {
    if word.starts_with('-') {
        format!("-- {}", quoted(word))
    } else {
        quoted(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_a_shell_would_read_more_into_them() {
        for (word, want) in [
            ("web", "web"),
            ("web-1.example.org:8443", "web-1.example.org:8443"),
            ("/srv/replicas/a+b", "/srv/replicas/a+b"),
            ("my vm", "'my vm'"),
            ("", "''"),
            ("a'b", r"'a'\''b'"),
            ("$(reboot)", "'$(reboot)'"),
            ("*", "'*'"),
            ("~root", "'~root'"),
            ("a\nb", "'a\nb'"),
            ("ä", "'ä'"),
            ("-x", "-x"),
        ] {
            assert_eq!(quoted(word), want);
        }
        assert_eq!(argument("-x y"), "-- '-x y'");
        assert_eq!(argument("x y"), "'x y'");
    }
}
