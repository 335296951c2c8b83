//! Who asks. A caller is known at the surface it came in by, and travels with what it asked for: to the actor of the VM, into
//! the events that are recorded and the jobs that begin meanwhile. What goes on by itself afterwards is nobody's word; its
//! job says whose it was. What a caller may do is decided elsewhere.

use std::fmt;
use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::ports::link::PeerIdentity;

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
}

impl By {
    /// A process of this host.
    #[must_use]
    pub fn process(uid: u32, pid: Option<i32>) -> Self {
        Self {
            surface: Surface::Local,
            name: match uid {
                0 => "root".to_owned(),
                uid => format!("uid {uid}"),
            },
            from: pid.map(|pid| format!("pid {pid}")),
        }
    }

    /// Another host.
    pub(crate) fn peer(peer: &PeerIdentity) -> Self {
        Self {
            surface: Surface::Peer,
            name: peer.names.first().cloned().unwrap_or_default(),
            from: None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.surface {
            Surface::Peer => write!(f, "host {}", self.name)?,
            Surface::Local | Surface::Wsman | Surface::CimXml => f.write_str(&self.name)?,
        }
        self.from.iter().try_for_each(|from| write!(f, " ({from})"))
    }
}

tokio::task_local! {
    static BY: By;
}

/// Who asked for what is being done; `None`: nobody did, or it was long ago.
pub(crate) fn now() -> Option<By> {
    BY.try_with(Clone::clone).ok()
}

/// Does something because somebody asked for it.
pub(crate) async fn asked<R>(by: Option<By>, work: impl Future<Output = R>) -> R {
    match by {
        Some(by) => BY.scope(by, work).await,
        None => work.await,
    }
}
