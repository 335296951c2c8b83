//! The spool: a growing buffer that readers follow. It is gone with the daemon.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::spool::{Spool, SpoolError, SpoolFile};
use lifeboat_model::{Position, VmId};
use tokio::sync::watch;

use crate::port::Port;

#[derive(Clone, Copy, PartialEq)]
enum Progress {
    Growing(usize),
    Whole(usize),
    Broken,
}

struct File {
    port: Port,
    bytes: Arc<Mutex<Vec<u8>>>,
    progress: watch::Sender<Progress>,
}

fn full(port: &Port) -> Result<(), SpoolError> {
    if port.shared.state().hosts[port.host].spool_full {
        return Err(SpoolError::NoSpace {
            dir: "/spool".into(),
            reserve_mib: 64,
        });
    }
    Ok(())
}

#[async_trait]
impl Spool for Port {
    async fn create(&self, _vm: VmId, _position: Position) -> Result<Arc<dyn SpoolFile>, SpoolError> {
        self.run("spool.create", |_, _| Ok(())).await?;
        full(self)?;
        Ok(Arc::new(File {
            port: self.clone(),
            bytes: Arc::default(),
            progress: watch::Sender::new(Progress::Growing(0)),
        }))
    }
}

#[async_trait]
impl SpoolFile for File {
    async fn append(&self, bytes: Bytes) -> Result<(), SpoolError> {
        self.port.run("spool.append", |_, _| Ok(())).await?;
        full(&self.port)?;
        let mut all = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(&bytes);
        self.progress.send_replace(Progress::Growing(all.len()));
        Ok(())
    }

    fn finish(&self, complete: bool) {
        let len = self.bytes.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.progress.send_replace(if complete {
            Progress::Whole(len)
        } else {
            Progress::Broken
        });
    }

    fn len(&self) -> u64 {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn reader(&self, offset: u64) -> ByteStream {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let state = (self.bytes.clone(), self.progress.subscribe(), from, false);
        Box::pin(stream::unfold(
            state,
            |(bytes, mut progress, at, ended)| async move {
                if ended {
                    return None;
                }
                loop {
                    let now = *progress.borrow_and_update();
                    let piece: Vec<u8> = {
                        let all = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                        all.get(at..).unwrap_or_default().to_vec()
                    };
                    let broken = || Some(Err(std::io::Error::other("the log was not completed")));
                    match now {
                        Progress::Broken => return broken().map(|e| (e, (bytes, progress, at, true))),
                        Progress::Growing(_) | Progress::Whole(_) if !piece.is_empty() => {
                            let next = at + piece.len();
                            return Some((Ok(Bytes::from(piece)), (bytes, progress, next, false)));
                        }
                        Progress::Whole(_) => return None,
                        Progress::Growing(_) => {
                            if progress.changed().await.is_err() {
                                return broken().map(|e| (e, (bytes, progress, at, true)));
                            }
                        }
                    }
                }
            },
        ))
    }
}
