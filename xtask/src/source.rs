//! Just enough Rust to search it honestly: comments and literals blanked, test modules set apart, `use` trees
//! spelled out. Not a parser; what it cannot see (macros that build paths, renamed imports) it does not see.

/// A Rust file, prepared for searching. Line numbers are those of the file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Everything but comments and the inside of literals.
    pub(crate) code: String,
    /// `code` without items marked `#[cfg(test)]`.
    pub(crate) product: String,
    /// Modules declared as `#[cfg(test)] mod name;`.
    pub(crate) test_modules: Vec<TestModule>,
    /// How many lines belong to items marked `#[cfg(test)]`.
    pub(crate) test_lines: usize,
    /// Strings and characters as they are written, with the line that each begins on, from 1; those of items marked
    /// `#[cfg(test)]` are left out.
    pub(crate) literals: Vec<(usize, String)>,
}

/// Where a module that exists for tests only is to be found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TestModule {
    /// By its name, as usual.
    Named(String),
    /// In the file that a `#[path]` names.
    At(String),
}

pub(crate) fn scan(text: &str) -> Source {
    let (code, mut literals) = apart(text);
    let mut product = code.clone();
    let mut test_modules = Vec::new();
    let mut test_lines = 0;
    while let Some(start) = ["#[cfg(test)]", "#[cfg(all(test"]
        .iter()
        .filter_map(|m| product.find(m))
        .min()
    {
        let end = item_end(&product, start);
        let item = &product[start..end];
        test_lines += item.lines().count();
        let first = product[..start].matches('\n').count() + 1;
        let last = first + item.matches('\n').count();
        literals.retain(|(line, _)| !(first..=last).contains(line));
        if let Some((attributes, name)) = item.strip_suffix(';').and_then(|item| item.rsplit_once("mod ")) {
            // Blanking keeps every byte in its place, so the literal is still to be had from the text.
            let path = attributes
                .contains("path")
                .then(|| text[start..end].split('"').nth(1))
                .flatten();
            test_modules.push(match path {
                Some(path) => TestModule::At(path.to_owned()),
                None => TestModule::Named(name.trim().to_owned()),
            });
        }
        let blank = blanked(item);
        product.replace_range(start..end, &blank);
    }
    Source {
        code,
        product,
        test_modules,
        test_lines,
        literals,
    }
}

/// Where `needle` stands in `code` as a whole path, word or call; numbers of lines, from 1.
pub(crate) fn lines_with(code: &str, needle: &str) -> Vec<usize> {
    let word = |character: Option<char>| character.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let starts_word = word(needle.chars().next());
    let ends_word = word(needle.chars().next_back());
    let hits = code.match_indices(needle).filter(|(at, _)| {
        let glued_before = starts_word && word(code[..*at].chars().next_back());
        let glued_after = ends_word && word(code[at + needle.len()..].chars().next());
        !glued_before && !glued_after
    });
    let mut lines: Vec<usize> = hits.map(|(at, _)| 1 + code[..at].matches('\n').count()).collect();
    lines.dedup();
    lines
}

/// One name that a `use` brings in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// Line of the `use`, from 1.
    pub(crate) line: usize,
    /// What is brought in, from the first name of its path on.
    pub(crate) path: String,
    /// What it is called here: the last name of the path, or the one behind `as`.
    pub(crate) name: String,
}

/// Every name that a `use` brings in, braces spelled out.
pub(crate) fn uses(code: &str) -> Vec<Use> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let before = code[..at].chars().next_back();
        let Some(end) = code[at..].find(';') else { continue };
        if before.is_none_or(|c| c.is_whitespace() || c == '}' || c == ';') {
            let line = 1 + code[..at].matches('\n').count();
            let tree: String = code[at + 4..at + end]
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ");
            spell_out("", &tree, &mut |path, name| found.push(Use { line, path, name }));
        }
    }
    found
}

/// Every path that a `use` brings in, braces spelled out, with its line.
pub(crate) fn imports(code: &str) -> Vec<(usize, String)> {
    uses(code)
        .into_iter()
        .map(|used| (used.line, used.path))
        .collect()
}

fn spell_out(prefix: &str, tree: &str, found: &mut dyn FnMut(String, String)) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let (path, alias) = match tree.split_once(" as ") {
            Some((path, alias)) => (path.trim(), Some(alias.trim())),
            None => (tree, None),
        };
        let path = format!("{prefix}{path}").trim_end_matches("::self").to_owned();
        let name = alias.or_else(|| path.rsplit("::").next()).unwrap_or_default();
        let name = name.to_owned();
        return found(path, name);
    };
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    let prefix = format!("{prefix}{}", head.trim());
    let mut depth = 0_usize;
    let mut start = 0;
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                spell_out(&prefix, &inner[start..at], found);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !inner[start..].trim().is_empty() {
        spell_out(&prefix, &inner[start..], found);
    }
}

/// Every path of two or more names in the code, with its line; of one with generics in it, the part before them.
pub(crate) fn paths(code: &str) -> Vec<(usize, &str)> {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (line, text) in (1..).zip(code.lines()) {
        let mut at = 0;
        while let Some(start) = text[at..].find(is_name).map(|start| at + start) {
            let of_path = |c: char| is_name(c) || c == ':';
            let len = text[start..].find(|c| !of_path(c)).unwrap_or(text.len() - start);
            at = start + len;
            let path = text[start..at].trim_end_matches(':');
            // What follows a dot (but not two) or generics is a name of something else.
            let before = &text[..start];
            let begins = !before.ends_with(':') && (before.ends_with("..") || !before.ends_with('.'));
            if begins && path.contains("::") {
                found.push((line, path));
            }
        }
    }
    found
}

/// The end of the item, statement or field whose attributes start at `start`.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    for (at, character) in code[start..].char_indices() {
        let here = start + at;
        match character {
            '{' | '(' | '[' => depth += 1,
            // Whatever holds the item ends: it was a last field without a comma.
            '}' | ')' | ']' if depth == 0 => return here,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && character == '}' {
                    return here + 1;
                }
            }
            ';' if depth == 0 => return here + 1,
            // The comma behind a field; one in generics stands behind the word that begins the item.
            ',' if depth == 0
                && !["fn ", "impl", "struct ", "enum ", "trait ", "type "]
                    .iter()
                    .any(|word| code[start..here].contains(word)) =>
            {
                return here + 1;
            }
            _ => {}
        }
    }
    code.len()
}

fn blanked(text: &str) -> String {
    text.chars()
        .map(|character| if character == '\n' { '\n' } else { ' ' })
        .collect()
}

/// The code with comments and literals blanked, and the literals with their lines.
fn apart(text: &str) -> (String, Vec<(usize, String)>) {
    let mut code = String::with_capacity(text.len());
    let mut literals = Vec::new();
    let mut line = 1;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let glued = code
            .chars()
            .next_back()
            .is_some_and(|c| c.is_alphanumeric() || c == '_');
        let comment = comment_len(rest);
        let len = comment.or_else(|| literal_len(rest, glued));
        let (piece, keep) = match len {
            Some(len) => (&rest[..len], false),
            None => (&rest[..first.len_utf8()], true),
        };
        if keep {
            code.push_str(piece);
        } else {
            code.push_str(&blanked(piece));
        }
        if !keep && comment.is_none() {
            literals.push((line, piece.to_owned()));
        }
        line += piece.matches('\n').count();
        rest = &rest[piece.len()..];
    }
    (code, literals)
}

fn comment_len(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest.as_bytes().get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Some(at);
        }
    }
    Some(rest.len())
}

/// Length of the string or character literal at the start of `rest`; `glued` to a word it is none (a lifetime
/// cannot be, and the prefixes `b`, `c` and `r` are read with the literal).
fn literal_len(rest: &str, glued: bool) -> Option<usize> {
    let body = rest.trim_start_matches(['b', 'c', 'r']);
    let prefix = rest.len() - body.len();
    if prefix > 2 || (prefix > 0 && glued) {
        return None;
    }
    if rest[..prefix].contains('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let inner = body[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let close = inner.find(&end).map_or(inner.len(), |at| at + end.len());
        return Some(prefix + hashes + 1 + close);
    }
    match body.as_bytes().first() {
        Some(b'"') => Some(prefix + quoted_len(body, '"')),
        Some(b'\'') => {
            let mut inner = body[1..].chars();
            let escaped = inner.next()? == '\\';
            (escaped || inner.next() == Some('\'')).then(|| prefix + quoted_len(body, '\''))
        }
        _ => None,
    }
}

/// Length of a literal up to its closing `quote`, escapes minded.
fn quoted_len(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in body.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            end if end == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "a /* x /* y */ \" */ b // c\n\"d \\\" e\" f r#\"g\" h\"# 'i' '\\'' 'life b\"j\" k";
        let (code, literals) = apart(text);
        assert_eq!(literals.len(), 5, "{literals:?}");
        let words: Vec<&str> = code.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "f", "'life", "k"]);
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn test_items_are_set_apart() {
        let source = scan(
            "fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod t {\n fn b() { \"}\"; }\n}\nfn c() {}\n#[cfg(test)]\nmod u;\n",
        );
        assert_eq!(
            source.product.split_whitespace().collect::<String>(),
            "fna(){}fnc(){}"
        );
        assert_eq!(
            (source.test_modules, source.test_lines),
            (vec![TestModule::Named("u".into())], 7)
        );
    }

    #[test]
    fn modules_with_a_path_and_fields_are_set_apart() {
        let source = scan("// ä\n#[cfg(test)]\n#[path = \"x_tests.rs\"]\nmod tests;\n");
        assert_eq!(source.test_modules, [TestModule::At("x_tests.rs".into())]);
        let source = scan("struct A { a: B, #[cfg(test)] b: C<D>, e: F, #[cfg(test)] g: H } fn i() {}");
        assert_eq!(
            source.product.split_whitespace().collect::<String>(),
            "structA{a:B,e:F,}fni(){}"
        );
    }

    #[test]
    fn imports_are_spelled_out() {
        let code = "use std::{fs::{self, File}, io as i,\n time::Instant};\npub use a::b;\n";
        let paths: Vec<String> = imports(code).into_iter().map(|(_, path)| path).collect();
        assert_eq!(
            paths,
            [
                "std::fs",
                "std::fs::File",
                "std::io",
                "std::time::Instant",
                "a::b"
            ]
        );
    }

    #[test]
    fn names_that_are_brought_in_are_those_used_here() {
        let code = "use a::{b::{self, C}, d as e};\nuse f;\nuse g::*;";
        let names: Vec<(String, String)> = uses(code).into_iter().map(|u| (u.name, u.path)).collect();
        let of = |name: &str, path: &str| (name.to_owned(), path.to_owned());
        assert_eq!(
            names,
            [
                of("b", "a::b"),
                of("C", "a::b::C"),
                of("e", "a::d"),
                of("f", "f"),
                of("*", "g::*"),
            ]
        );
    }

    #[test]
    fn paths_in_code_are_found() {
        let code = "fn a(b: c::D<e::F>) -> g::h {\n    i.j::<k::L>(m::n::<O>::p, <Q as r::S>::T, V { ..w::x() });\n    'u: loop {}\n}";
        assert_eq!(
            paths(code),
            [
                (1, "c::D"),
                (1, "e::F"),
                (1, "g::h"),
                (2, "k::L"),
                (2, "m::n"),
                (2, "r::S"),
                (2, "w::x"),
            ]
        );
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(lines_with("unsafe_code\nunsafe {\n", "unsafe"), [2]);
        assert_eq!(lines_with("x.unwrap_or(1)\nx.unwrap()\n", ".unwrap()"), [2]);
    }
}
