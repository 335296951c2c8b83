//! Media, in memory: directories that every host sees under the same name, as if somebody carried them the moment they are
//! looked at. Tests may damage them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use camino::Utf8Path;
use futures_util::{StreamExt, stream};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::media::{Manifest, Media, MediaError, SegmentFile};
use lifeboat_model::{Position, VmId};

use crate::gate::Port;
use crate::state::State;

/// A directory on a medium.
#[derive(Clone, Debug, Default)]
pub struct Medium {
    /// Which copy it was made for.
    pub begun: Option<(VmId, Position)>,
    /// Segment files.
    pub files: BTreeMap<String, Bytes>,
    /// The manifest, when the export is complete.
    pub manifest: Option<Manifest>,
}

type Result<T> = std::result::Result<T, MediaError>;

fn described(name: &str, content: &[u8]) -> SegmentFile {
    SegmentFile {
        name: name.to_owned(),
        bytes: content.len() as u64,
        blake3: blake3::hash(content).to_hex().to_string(),
    }
}

fn room(s: &State, dir: &Utf8Path) -> Result<()> {
    match s.medium_full {
        true => Err(MediaError::NoSpace(dir.to_owned())),
        false => Ok(()),
    }
}

fn checked(s: &State, dir: &Utf8Path, file: &SegmentFile) -> Result<Bytes> {
    let damaged = |detail: &str| MediaError::Damaged {
        file: dir.join(&file.name),
        detail: detail.into(),
    };
    let medium = s.media.get(dir.as_str());
    let content = medium.and_then(|m| m.files.get(&file.name));
    let content = content.ok_or_else(|| damaged("it is not there"))?;
    match described(&file.name, content) == *file {
        true => Ok(content.clone()),
        false => Err(damaged("it is not what was exported")),
    }
}

#[async_trait]
impl Media for Port {
    async fn found(&self, dir: &Utf8Path, vm: VmId, start: Position) -> Result<Option<Vec<SegmentFile>>> {
        self.run("media.found", |s, _| match s.media.get(dir.as_str()) {
            None => Ok(None),
            Some(m) if m.begun == Some((vm, start)) => {
                Ok(Some(m.files.iter().map(|(n, c)| described(n, c)).collect()))
            }
            Some(_) => Err(MediaError::NotEmpty(dir.to_owned())),
        })
        .await
    }

    async fn begin(&self, dir: &Utf8Path, vm: VmId, start: Position) -> Result<()> {
        self.run("media.begin", |s, _| {
            room(s, dir)?;
            let medium = s.media.entry(dir.to_string()).or_default();
            match medium.begun.is_none_or(|b| b == (vm, start)) {
                true => medium.begun = Some((vm, start)),
                false => return Err(MediaError::NotEmpty(dir.to_owned())),
            }
            Ok(())
        })
        .await
    }

    async fn put(&self, dir: &Utf8Path, name: &str, mut body: ByteStream) -> Result<SegmentFile> {
        let mut content = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| MediaError::Io(format!("what is exported cannot be read: {e}")))?;
            content.extend_from_slice(&chunk);
        }
        self.run("media.put", |s, _| {
            room(s, dir)?;
            let medium = s.media.entry(dir.to_string()).or_default();
            medium.files.insert(name.to_owned(), content.clone().into());
            Ok(described(name, &content))
        })
        .await
    }

    async fn finish(&self, dir: &Utf8Path, manifest: &Manifest) -> Result<()> {
        self.run("media.finish", |s, _| {
            room(s, dir)?;
            let medium = s.media.entry(dir.to_string()).or_default();
            medium.manifest = Some(manifest.clone());
            Ok(())
        })
        .await
    }

    async fn open(&self, dir: &Utf8Path) -> Result<Manifest> {
        self.run("media.open", |s, _| {
            let medium = s.media.get(dir.as_str());
            let manifest = medium.and_then(|m| m.manifest.clone());
            manifest.ok_or_else(|| MediaError::NoExport(dir.to_owned()))
        })
        .await
    }

    async fn check(&self, dir: &Utf8Path, file: &SegmentFile) -> Result<()> {
        self.run("media.check", |s, _| checked(s, dir, file).map(drop))
            .await
    }

    async fn read(&self, dir: &Utf8Path, file: &SegmentFile) -> Result<ByteStream> {
        let content = self.run("media.read", |s, _| checked(s, dir, file)).await?;
        Ok(Box::pin(stream::iter([Ok(content)])))
    }
}
