//! The page: one table of budgets, and below it what each number is made of.

use std::fmt::Write;

/// Whether a budget is met. A measurement that says nothing about it is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// There is no budget, or this run cannot tell.
    Open,
}

impl Verdict {
    pub(crate) fn of(met: bool) -> Self {
        if met { Self::Met } else { Self::Missed }
    }
}

/// One line of the table.
pub(crate) struct Line {
    pub(crate) what: &'static str,
    pub(crate) budget: &'static str,
    pub(crate) measured: String,
    pub(crate) verdict: Verdict,
    /// What the number means, and where the time went when the budget is missed.
    pub(crate) why: String,
}

/// What one group of rows adds.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) lines: Vec<Line>,
    /// Title and Markdown.
    pub(crate) details: Vec<(&'static str, String)>,
}

/// The page.
pub(crate) struct Report {
    facts: String,
    part: Part,
    failures: Vec<String>,
    load: String,
}

impl Report {
    pub(crate) fn new(facts: String) -> Self {
        Self {
            facts,
            part: Part::default(),
            failures: Vec::new(),
            load: String::new(),
        }
    }

    pub(crate) fn add(&mut self, part: Part) {
        self.part.lines.extend(part.lines);
        self.part.details.extend(part.details);
    }

    pub(crate) fn failed(&mut self, name: &str, error: &anyhow::Error) {
        eprintln!("{name}: {error:#}");
        self.failures.push(format!("{name}: {error:#}"));
    }

    pub(crate) fn finish(&mut self, load: String) {
        self.load = load;
    }

    pub(crate) fn markdown(&self) -> String {
        let mut out = String::from(INTRODUCTION);
        let _ = writeln!(out, "\n## Machine\n\n{}{}", self.facts, self.load);
        out.push_str("\n## Budgets\n\n| what | budget | measured | | why |\n|---|---|---|---|---|\n");
        for line in &self.part.lines {
            let verdict = match line.verdict {
                Verdict::Met => "met",
                Verdict::Missed => "**missed**",
                Verdict::Open => "—",
            };
            let Line {
                what,
                budget,
                measured,
                why,
                ..
            } = line;
            let _ = writeln!(out, "| {what} | {budget} | {measured} | {verdict} | {why} |");
        }
        for failure in &self.failures {
            let _ = writeln!(out, "\nNot measured in this run: {failure}");
        }
        for (title, text) in &self.part.details {
            let _ = write!(out, "\n## {title}\n\n{}\n", text.trim_end());
        }
        out
    }
}

const INTRODUCTION: &str = "\
# Benchmarks

Written by `make bench` (`BENCH_FULL=1 make bench` measures longer); edits to this page are lost with the next run.
What can be is a ratio to a peer or to a control measured in the same run, in interleaved pairs; medians unless said
otherwise. Absolute times say how busy this machine was and no more. Both hosts of every pair run on this one machine,
so that sender, receiver and guest share its cores. No test fails by any of these numbers.
";
