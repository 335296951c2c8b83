//! What was made of files that change while the program runs. Files are replaced one after the other, so what they hold in
//! between may not fit together: then what was made before stays in use, and the reason is kept. Nothing is read here.

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::Arc;

/// Something made of files, and what they held.
pub struct Reread<R, T> {
    in_use: Arc<T>,
    /// What the files held when they were read last, whether it was of use or not.
    read: R,
    problem: Option<String>,
}

/// Files may hold keys, so neither they nor what was made of them is shown.
impl<R, T> Debug for Reread<R, T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reread")
            .field("problem", &self.problem)
            .finish_non_exhaustive()
    }
}

/// What a look at the files came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing that has to be said.
    Same,
    /// What they hold now is in use.
    Changed,
    /// They cannot be used, for a reason that was not there at the last look.
    Unusable(String),
}

impl<R: PartialEq, T> Reread<R, T> {
    /// What was made of the files at first.
    pub fn new(read: R, made: T) -> Self {
        Self {
            in_use: Arc::new(made),
            read,
            problem: None,
        }
    }

    /// What is in use.
    #[must_use]
    pub fn in_use(&self) -> Arc<T> {
        self.in_use.clone()
    }

    /// Why what the files hold is not used; `None` while it is.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    /// Takes over what the files hold (`read`; an error: they cannot be read), if that has changed and `make` accepts it.
    pub fn look<E: Display>(&mut self, read: Result<R, E>, make: impl FnOnce(&R) -> Result<T, E>) -> Look {
        let read = match read {
            Ok(read) => read,
            Err(e) => return self.unusable(&e),
        };
        if read == self.read {
            // Files that could not be read for a while hold again what is in use.
            if self.problem.is_some() && make(&read).is_ok() {
                self.problem = None;
            }
            return Look::Same;
        }
        let made = make(&read);
        self.read = read;
        match made {
            Ok(made) => {
                (self.in_use, self.problem) = (Arc::new(made), None);
                Look::Changed
            }
            Err(e) => self.unusable(&e),
        }
    }

    fn unusable(&mut self, e: &impl Display) -> Look {
        let why = e.to_string();
        match self.problem.replace(why.clone()) {
            Some(before) if before == why => Look::Same,
            Some(_) | None => Look::Unusable(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(read: &&'static str) -> Result<usize, &'static str> {
        read.parse().map_err(|_| "no number")
    }

    #[test]
    fn what_cannot_be_used_changes_nothing_and_is_said_once() {
        let mut kept = Reread::new("1", 1);
        let steps = [
            (Ok("1"), Look::Same, 1, None),
            (Ok("2"), Look::Changed, 2, None),
            (
                Ok("two"),
                Look::Unusable("no number".into()),
                2,
                Some("no number"),
            ),
            (Ok("two"), Look::Same, 2, Some("no number")),
            (Err("gone"), Look::Unusable("gone".into()), 2, Some("gone")),
            (Err("gone"), Look::Same, 2, Some("gone")),
            (Ok("3"), Look::Changed, 3, None),
            (Err("gone"), Look::Unusable("gone".into()), 3, Some("gone")),
            (Ok("3"), Look::Same, 3, None),
        ];
        for (read, look, in_use, problem) in steps {
            assert_eq!(kept.look(read, make), look, "{read:?}");
            assert_eq!(*kept.in_use(), in_use, "{read:?}");
            assert_eq!(kept.problem().as_deref(), problem, "{read:?}");
        }
    }
}
