//! Media, in memory: directories that every host sees under the same name, as if they were carried the moment they are
//! looked at. Tests may damage them and forge them. Instead of ciphers there are digests made with the key: without
//! the key none can be made that fits.

use async_trait::async_trait;
use bytes::Bytes;
use camino::Utf8Path;
use futures_util::{StreamExt, stream};
use lifeboat_engine::ports::ByteStream;
use lifeboat_engine::ports::media::{Manifest, Media, MediaError, Part, Seal, SegmentFile};

use crate::medium::Sealed;
use crate::port::Port;
use crate::state::State;

type Result<T> = std::result::Result<T, MediaError>;

/// The digest of something under a key. A model of authentication, for simulated media only.
fn digest(seal: &Seal, part: Option<Part>, content: &[u8]) -> String {
    let mut hash = blake3::Hasher::new_keyed(seal.sealing.key.expose());
    hash.update(seal.sealing.export.as_bytes())
        .update(seal.vm.0.as_bytes());
    if let Some(part) = part {
        hash.update(part.name().as_bytes());
    }
    hash.update(content).finalize().to_hex().to_string()
}

fn sealed(seal: &Seal, part: Part, content: Bytes) -> Sealed {
    let digest = digest(seal, Some(part), &content);
    Sealed { content, digest }
}

fn described(part: Part, file: &Sealed) -> SegmentFile {
    SegmentFile {
        part,
        bytes: file.content.len() as u64,
        salt: file.digest.clone(),
    }
}

fn room(s: &State, dir: &Utf8Path) -> Result<()> {
    if s.medium_full {
        Err(MediaError::NoSpace(dir.to_owned()))
    } else {
        Ok(())
    }
}

fn checked(s: &State, dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<Bytes> {
    let damaged = |detail: &str| MediaError::Damaged {
        file: dir.join(file.part.name()),
        detail: detail.into(),
    };
    let medium = s.media.get(dir.as_str());
    let found = medium.and_then(|m| m.files.get(&file.part));
    let found = found.ok_or_else(|| damaged("it is not there"))?;
    let own = sealed(seal, file.part, found.content.clone());
    if own == *found && described(file.part, found) == *file {
        Ok(own.content)
    } else {
        Err(damaged("it is not what was exported"))
    }
}

fn manifest(s: &State, dir: &Utf8Path, seal: &Seal) -> Result<Manifest> {
    let nothing = || MediaError::NoExport(dir.to_owned());
    let medium = s.media.get(dir.as_str()).ok_or_else(nothing)?;
    let (manifest, said) = medium.manifest.as_ref().ok_or_else(nothing)?;
    let awaited = seal.sealing.export;
    match medium.begun {
        Some(found) if found != awaited => Err(MediaError::Another {
            dir: dir.to_owned(),
            found,
            awaited,
        }),
        _ if *said != digest(seal, None, &text(manifest)) => Err(MediaError::Damaged {
            file: dir.join("manifest"),
            detail: "it is not what was exported".into(),
        }),
        _ => Ok(manifest.clone()),
    }
}

fn text(manifest: &Manifest) -> Vec<u8> {
    serde_json::to_vec(manifest).unwrap_or_default()
}

#[async_trait]
impl Media for Port {
    async fn found(&self, dir: &Utf8Path, seal: &Seal) -> Result<Option<Vec<SegmentFile>>> {
        self.run("media.found", |s, _| match s.media.get(dir.as_str()) {
            None => Ok(None),
            Some(m) if m.begun == Some(seal.sealing.export) => {
                let opens =
                    |(part, file): &(&Part, &Sealed)| sealed(seal, **part, file.content.clone()) == **file;
                let whole = m.files.iter().filter(opens);
                Ok(Some(whole.map(|(part, file)| described(*part, file)).collect()))
            }
            Some(_) => Err(MediaError::NotEmpty(dir.to_owned())),
        })
        .await
    }

    async fn begin(&self, dir: &Utf8Path, seal: &Seal) -> Result<()> {
        let export = seal.sealing.export;
        self.run("media.begin", |s, _| {
            room(s, dir)?;
            let medium = s.media.entry(dir.to_string()).or_default();
            if medium.begun.is_none_or(|b| b == export) {
                medium.begun = Some(export)
            } else {
                return Err(MediaError::NotEmpty(dir.to_owned()));
            }
            Ok(())
        })
        .await
    }

    async fn put(
        &self,
        dir: &Utf8Path,
        seal: &Seal,
        part: Part,
        mut body: ByteStream,
    ) -> Result<SegmentFile> {
        let mut content = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| MediaError::Io(format!("what is exported cannot be read: {e}")))?;
            content.extend_from_slice(&chunk);
        }
        let file = sealed(seal, part, content.into());
        self.run("media.put", |s, _| {
            room(s, dir)?;
            let medium = s.media.entry(dir.to_string()).or_default();
            medium.files.insert(part, file.clone());
            Ok(described(part, &file))
        })
        .await
    }

    async fn finish(&self, dir: &Utf8Path, seal: &Seal, manifest: &Manifest) -> Result<()> {
        let digest = digest(seal, None, &text(manifest));
        self.run("media.finish", |s, _| {
            room(s, dir)?;
            let medium = s.media.entry(dir.to_string()).or_default();
            medium.manifest = Some((manifest.clone(), digest.clone()));
            Ok(())
        })
        .await
    }

    async fn open(&self, dir: &Utf8Path, seal: &Seal) -> Result<Manifest> {
        self.run("media.open", |s, _| manifest(s, dir, seal)).await
    }

    async fn check(&self, dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<()> {
        self.run("media.check", |s, _| checked(s, dir, seal, file).map(drop))
            .await
    }

    async fn read(&self, dir: &Utf8Path, seal: &Seal, file: &SegmentFile) -> Result<ByteStream> {
        let content = self.run("media.read", |s, _| checked(s, dir, seal, file)).await?;
        Ok(Box::pin(stream::iter([Ok(content)])))
    }
}
