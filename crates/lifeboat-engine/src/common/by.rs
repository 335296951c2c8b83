//! Who asks. A caller is known at the surface it came in by, and travels with what it asked for: to the actor of the VM, into
//! the events that are recorded and the jobs that begin meanwhile. What goes on by itself afterwards has no caller; its
//! job says who began it. What a caller may do is decided elsewhere.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::future::Future;

/// The way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Surface {
    /// The management socket of this host.
    Local,
    /// WS-Management.
    Wsman,
    /// CIM-XML.
    CimXml,
    /// The link between hosts.
    Peer,
}

/// A caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The way it came.
    pub surface: Surface,
    /// A user's name, `certificate NAME`, `root` or `uid N`; of a peer the first name of its certificate.
    pub name: String,
    /// Address and port, or `pid N` of a process of this host; `None` when not known.
    pub from: Option<String>,
    /// The account of a process of this host; `None` for every other caller, and where it was not recorded.
    #[serde(default)]
    pub account: Option<Account>,
    /// Who confirmed it as the second person; `None` where none was needed.
    #[serde(default)]
    pub confirmed: Option<Box<By>>,
}

impl By {
    /// A process of this host, of which no more is known than its user.
    #[must_use]
    pub fn process(uid: u32, pid: Option<i32>) -> Self {
        let (login, user) = (None, None);
        Self::of(Account { uid, login, user }, pid)
    }

    /// A process of this host.
    #[must_use]
    pub fn of(account: Account, pid: Option<i32>) -> Self {
        Self {
            surface: Surface::Local,
            name: match account.uid {
                0 => "root".to_owned(),
                uid => format!("uid {uid}"),
            },
            from: pid.map(|pid| format!("pid {pid}")),
            account: Some(account),
            confirmed: None,
        }
    }

    /// This caller, with the consent of a second person.
    #[must_use]
    pub fn confirmed_by(self, second: Self) -> Self {
        Self {
            confirmed: Some(Box::new(second)),
            ..self
        }
    }

    /// Whose name it is, where that is another than the one it has now.
    fn behind(&self) -> Option<String> {
        let account = self.account.as_ref()?;
        let login = account.login.filter(|login| *login != account.uid)?;
        Some(account.user.clone().unwrap_or_else(|| format!("uid {login}")))
    }

    /// The names alone: `root for ada, confirmed by bob`.
    #[must_use]
    pub fn names(&self) -> String {
        let mut names = self.name.clone();
        if let Some(behind) = self.behind() {
            names = format!("{names} for {behind}");
        }
        match &self.confirmed {
            Some(second) => format!("{names}, confirmed by {}", second.names()),
            None => names,
        }
    }

    /// Another host, by the first name of its certificate.
    pub(crate) fn host(names: &[String]) -> Self {
        Self {
            surface: Surface::Peer,
            name: names.first().cloned().unwrap_or_default(),
            from: None,
            account: None,
            confirmed: None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.surface {
            Surface::Peer => write!(f, "host {}", self.name)?,
            Surface::Local | Surface::Wsman | Surface::CimXml => f.write_str(&self.name)?,
        }
        if let Some(behind) = self.behind() {
            write!(f, " for {behind}")?;
        }
        self.from.iter().try_for_each(|from| write!(f, " ({from})"))?;
        self.confirmed
            .iter()
            .try_for_each(|by| write!(f, ", confirmed by {by}"))
    }
}

tokio::task_local! {
    static BY: By;
}

/// Who asked for what is being done; `None`: no caller did, or it was long ago.
pub(crate) fn now() -> Option<By> {
    BY.try_with(Clone::clone).ok()
}

/// Does something in the name of the caller that asked for it.
pub(crate) async fn asked<R>(by: Option<By>, work: impl Future<Output = R>) -> R {
    match by {
        Some(by) => BY.scope(by, work).await,
        None => work.await,
    }
}

/// The account of this host that a process belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The user id it has now.
    pub uid: u32,
    /// The user id it logged in with, which `sudo` and `su` do not change; `None`: no login, or the kernel does not say.
    #[serde(default)]
    pub login: Option<u32>,
    /// The name of `login`, or of `uid` without one, in this host's file of users; `None`: it is not there.
    #[serde(default)]
    pub user: Option<String>,
}
