//! Each action has a story in the simulated world: its tests name it, or ask the question that it answers. Whether the story says
//! enough, this cannot tell.

use crate::Finding;
use crate::files::Tree;

const ACTIONS: &str = "crates/lifeboat-engine/src/contract/action.rs";
/// Stories, and the names that they have for actions.
const STORIES: [&str; 2] = ["crates/lifeboat-sim/tests/", "crates/lifeboat-sim/src/harness/"];

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let stories: Vec<&str> = tree
        .sources
        .iter()
        .filter(|file| STORIES.iter().any(|folder| file.path.starts_with(folder)))
        .map(|file| file.source.code.as_str())
        .collect();
    let told = |variant: &str| {
        let names = [
            format!("Action::{variant}"),
            format!("Query::{}", question(variant)),
        ];
        stories
            .iter()
            .any(|story| names.iter().any(|name| has_word(story, name)))
    };
    let file = tree.sources.iter().find(|file| file.path == ACTIONS);
    let all = file.map_or(Vec::new(), |file| variants(&file.source.product));
    if all.is_empty() {
        return vec![Finding::error(
            ACTIONS,
            "has no actions that could be read; say in xtask/src/actions.rs where they are",
        )];
    }
    all.into_iter()
        .filter(|(_, variant)| !told(variant))
        .map(|(line, variant)| {
            let place = format!("{ACTIONS}:{line}");
            let what = format!("{variant} has no story: no test in crates/lifeboat-sim/tests/ asks for it");
            Finding::error(place, what)
        })
        .collect()
}

/// The variants of `Action`, with their lines.
fn variants(product: &str) -> Vec<(usize, String)> {
    product
        .lines()
        .enumerate()
        .skip_while(|(_, text)| !text.starts_with("pub enum Action {"))
        .take_while(|(_, text)| *text != "}")
        .filter_map(|(line, text)| {
            let text = text.strip_prefix("    ")?;
            let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
            let name = text.get(..end)?;
            name.starts_with(|c: char| c.is_ascii_uppercase())
                .then(|| (line + 1, name.to_owned()))
        })
        .collect()
}

/// `ShowJob` is asked for by `Query::show_job`.
fn question(variant: &str) -> String {
    let mut name = String::new();
    for c in variant.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

/// Whether the text has it, and not as the beginning of a longer name.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let after = text.get(at + word.len()..).and_then(|rest| rest.chars().next());
        !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "//! A.\n/// What.\npub enum Action {\n    /// One.\n    ShowJob {\n        /// Which.\n        job: Job,\n    },\n    \
                       Scrub { vm: Vm },\n}\n";

    fn found(story: &str) -> Vec<String> {
        let tree = Tree::example(&[(ACTIONS, TWO), ("crates/lifeboat-sim/tests/sim/a.rs", story)]);
        check(&tree).into_iter().map(|f| f.to_string()).collect()
    }

    #[test]
    fn an_action_without_a_story_is_told() {
        let both = "fn t() { ask(Query::show_job(1)); act(Action::Scrub { vm }) }";
        assert_eq!(found(both), [""; 0]);
        // A longer name, and a comment, are no story.
        let said = found("// Action::ShowJob\nfn t() { act(Action::ScrubAgain { vm }) }");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("action.rs:5: ShowJob has no story"), "{said:?}");
        assert!(said[1].contains("action.rs:9: Scrub has no story"), "{said:?}");
    }

    #[test]
    fn actions_that_are_elsewhere_are_looked_for() {
        let said = check(&Tree::example(&[]));
        assert!(said.len() == 1 && said[0].to_string().contains("no actions"));
    }
}
