//! Which part of a list an action asks for, and an answer is.

use crate::contract::{Action, Answer};

impl Action {
    /// The same list from another place on, which a page of it named; `None` for what is no list in pages.
    #[must_use]
    pub fn going_on(&self, from: String) -> Option<Self> {
        let mut next = self.clone();
        match &mut next {
            Self::ListVms(page)
            | Self::ListJobs(page)
            | Self::ListAuthorization(page)
            | Self::ListPoints { page, .. } => page.after = Some(from),
            Self::ListEvents { after, .. } => *after = Some(from),
            _ => return None,
        }
        Some(next)
    }
}

impl Answer {
    /// Where the list goes on of which this is a page; `None` at its end, and for everything else.
    pub fn next_mut(&mut self) -> Option<&mut Option<String>> {
        match self {
            Self::Vms(page) => Some(&mut page.next),
            Self::Points(page) => Some(&mut page.next),
            Self::Jobs(page) => Some(&mut page.next),
            Self::Events(page) => Some(&mut page.next),
            Self::Entries(page) => Some(&mut page.next),
            Self::Done
            | Self::Vm(_)
            | Self::Picture(_)
            | Self::Job(_)
            | Self::Server(_)
            | Self::Cycle(_)
            | Self::Requests(_) => None,
        }
    }
}
