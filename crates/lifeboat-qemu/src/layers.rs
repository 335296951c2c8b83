//! What a disk's image consists of, and the one gate for it: which files are opened, in which format, and what is refused,
//! with what to do instead. Every operation passes here, for a VM that runs and for one that is off: enabling, starting, and each
//! opening for a cycle, a copy or a comparison. An image may name files below it, but naming alone opens nothing: a file is
//! taken only when its format is said and it lies where the VM's description lets it lie. Reads headers, never writes.

use std::fs::{self, File, Metadata};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};
use lifeboat_model::{DiskAllow, DiskFormat};
use serde::{Deserialize, Serialize};

use crate::image::{self, Backing, Qcow2, incompatible};

/// Most images in one chain. QEMU itself opens at most 200, and reads slow down with each.
const MAX_LAYERS: usize = 64;

/// What a file is to the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A block device: a disk, a logical volume, a loop device.
    Device,
}

/// One image of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Layer {
    /// Absolute; as the description says it for the first one, without symbolic links for the others.
    pub(crate) path: Utf8PathBuf,
    pub(crate) format: DiskFormat,
    pub(crate) kind: Kind,
}

/// Whether a raw disk was accepted as one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// A guest has written to it as to a raw disk, so whatever header it begins with is the guest's.
    AsRaw,
    /// Nothing is known.
    Not,
}

/// The images of a disk, the one the guest writes to first. An error is a sentence that says what to do instead.
pub(crate) fn resolve(
    path: &Utf8Path,
    format: DiskFormat,
    allow: &DiskAllow,
    known: Known,
) -> Result<Vec<Layer>, String> {
    let (meta, mut file) = open(path, Access::Write)?;
    let kind = kind(path, &meta)?;
    let first = Layer {
        path: path.to_owned(),
        format,
        kind,
    };
    let backing = match format {
        DiskFormat::Raw => {
            if known == Known::Not && !allow.raw_header {
                check_header(path, &mut file)?;
            }
            check_raw(path, &meta, &mut file)?;
            None
        }
        DiskFormat::Qcow2 => check_qcow2(path, &mut file)?.backing,
    };
    let dirs = allowed_dirs(path, allow);
    let mut seen = vec![(meta.dev(), meta.ino())];
    let mut layers = vec![first];
    let mut next = backing.map(|b| (b, path.to_owned()));
    while let Some((backing, above)) = next.take() {
        if layers.len() == MAX_LAYERS {
            return Err(format!(
                "{path} has a chain of more than {MAX_LAYERS} backing files: merge some of them while the VM is off (qemu-img commit)"
            ));
        }
        let (layer, meta, below) = below(&above, &backing, &dirs)?;
        if seen.contains(&(meta.dev(), meta.ino())) {
            return Err(format!(
                "{above} and the images below it lead in a circle to {}",
                layer.path
            ));
        }
        seen.push((meta.dev(), meta.ino()));
        next = below.map(|b| (b, layer.path.clone()));
        layers.push(layer);
    }
    Ok(layers)
}

/// Directories in which backing files are accepted, without symbolic links.
fn allowed_dirs(path: &Utf8Path, allow: &DiskAllow) -> Vec<Utf8PathBuf> {
    let own = path.canonicalize_utf8();
    let own = own.ok().and_then(|p| p.parent().map(Utf8Path::to_owned));
    let named = allow
        .backing_in
        .iter()
        .filter_map(|dir| Utf8Path::new(dir).canonicalize_utf8().ok());
    own.into_iter().chain(named).collect()
}

/// The image that `above` names as the one below it, and what that names in turn.
fn below(
    above: &Utf8Path,
    backing: &Backing,
    dirs: &[Utf8PathBuf],
) -> Result<(Layer, Metadata, Option<Backing>), String> {
    let path = located(above, backing, dirs)?;
    let format = match backing.format.as_deref() {
        Some("raw" | "file" | "host_device") => DiskFormat::Raw,
        Some("qcow2") => DiskFormat::Qcow2,
        Some(other) => {
            return Err(format!(
                "{above} has the backing file {path} in format {other}, which cannot be replicated: make it one image with \
                 qemu-img convert -O qcow2 {above} NEW, and name that in the VM's description"
            ));
        }
        None => {
            return Err(format!(
                "{above} does not say in which format its backing file {path} is, and a guess could be led astray: say it \
                 while the VM is off with qemu-img rebase -u -F FORMAT -b {} {above}",
                backing.name
            ));
        }
    };
    let (meta, mut file) = open(&path, Access::Read)?;
    let kind = kind(&path, &meta)?;
    let next = match format {
        DiskFormat::Raw => {
            check_raw(&path, &meta, &mut file)?;
            None
        }
        DiskFormat::Qcow2 => check_qcow2(&path, &mut file)?.backing,
    };
    Ok((Layer { path, format, kind }, meta, next))
}

/// Where a backing file is, when it is where one may be.
fn located(above: &Utf8Path, backing: &Backing, dirs: &[Utf8PathBuf]) -> Result<Utf8PathBuf, String> {
    let name = &backing.name;
    // As QEMU reads it: a word before the first colon, without a slash, is a protocol.
    let protocol = name.split_once(':').is_some_and(|(word, _)| !word.contains('/'));
    if protocol {
        return Err(format!(
            "{above} has the backing file \"{name}\", which is no file of this host: make it one image with \
             qemu-img convert -O qcow2 {above} NEW, and name that in the VM's description"
        ));
    }
    let real = above.canonicalize_utf8().unwrap_or_else(|_| above.to_owned());
    let joined = real.parent().unwrap_or(Utf8Path::new("/")).join(name);
    let path = joined
        .canonicalize_utf8()
        .map_err(|e| format!("{above} has the backing file {joined}, which cannot be found: {e}"))?;
    if dirs.iter().any(|dir| path.starts_with(dir)) {
        return Ok(path);
    }
    let dir = path.parent().unwrap_or(Utf8Path::new("/"));
    Err(format!(
        "{above} has the backing file {path}, which is not in its directory: an image names this file by itself, so the VM's description has \
         to allow it with allow = {{ backing_in = [\"{dir}\"] }} at the disk"
    ))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

fn open(path: &Utf8Path, access: Access) -> Result<(Metadata, File), String> {
    let purpose = match access {
        Access::Read => "reading",
        Access::Write => "writing",
    };
    let mut options = File::options();
    options.read(true).write(access == Access::Write);
    // What it is comes first: opening a pipe would wait for its other end.
    let opened = fs::metadata(path).and_then(|m| {
        if m.is_file() || m.file_type().is_block_device() {
            Ok((m, Some(options.open(path)?)))
        } else {
            Ok((m, None))
        }
    });
    match opened {
        Ok((meta, Some(file))) => Ok((meta, file)),
        Ok((_, None)) => Err(format!("{path} is neither a regular file nor a block device")),
        Err(e) => Err(format!("{path} cannot be opened for {purpose}: {e}")),
    }
}

fn kind(path: &Utf8Path, meta: &Metadata) -> Result<Kind, String> {
    if meta.is_file() {
        Ok(Kind::File)
    } else if meta.file_type().is_block_device() {
        Ok(Kind::Device)
    } else {
        Err(format!("{path} is neither a regular file nor a block device"))
    }
}

fn check_raw(path: &Utf8Path, meta: &Metadata, file: &mut File) -> Result<(), String> {
    let size = if meta.is_file() {
        meta.len()
    } else {
        // The length of a device is where its end is.
        file.seek(SeekFrom::End(0))
            .map_err(|e| format!("{path}: its size cannot be found: {e}"))?
    };
    if size == 0 || size % 512 != 0 {
        return Err(format!(
            "{path} has {size} bytes; a raw image has a multiple of 512 and is not empty"
        ));
    }
    Ok(())
}

/// Refuses a raw disk that looks like an image of another format.
fn check_header(path: &Utf8Path, file: &mut File) -> Result<(), String> {
    let found = image::container(file).map_err(|e| format!("{path} cannot be read: {e}"))?;
    let Some(format) = found else { return Ok(()) };
    let way_out = match format {
        "qcow2" => "write format = \"qcow2\" at the disk".to_owned(),
        other => format!("convert it with qemu-img convert -f {other} -O qcow2 {path} NEW, and name that"),
    };
    Err(format!(
        "{path} is declared raw in the VM's description, but begins with the header of a {format} image: {way_out}; or, if \
         the guest itself wrote that to its disk, allow = {{ raw_header = true }}"
    ))
}

/// Reads a qcow2 header and refuses what cannot be replicated rightly.
fn check_qcow2(path: &Utf8Path, file: &mut File) -> Result<Qcow2, String> {
    let header = match image::qcow2(file) {
        Ok(Some(header)) => header,
        Ok(None) => return Err(format!("{path} is not a qcow2 image")),
        Err(e) => return Err(format!("{path} cannot be read as a qcow2 image: {e}")),
    };
    let convert = format!("qemu-img convert -O qcow2 {path} NEW");
    if header.version < 3 {
        return Err(format!(
            "{path} is an old qcow2 that cannot record changes: turn the VM off and run qemu-img amend -f qcow2 -o \
             compat=1.1 {path}"
        ));
    }
    if header.encrypted {
        return Err(format!(
            "{path} is encrypted by QEMU, and its key is not known here: make an image without encryption with {convert}, \
             and encrypt in the guest"
        ));
    }
    if header.incompatible & incompatible::DATA_FILE != 0 {
        return Err(format!(
            "{path} keeps its data in another file: name that file as a raw disk, or make one image with {convert}, and \
             name that"
        ));
    }
    if header.incompatible & incompatible::CORRUPT != 0 {
        return Err(format!(
            "{path} is marked corrupt: turn the VM off and repair it with qemu-img check -r all {path}"
        ));
    }
    let unknown = header.incompatible & !incompatible::KNOWN;
    if unknown != 0 {
        return Err(format!(
            "{path} uses features of qcow2 that are not known here (bits {unknown:#x}): make a plain image with {convert}"
        ));
    }
    if header.size == 0 || header.size % 512 != 0 {
        return Err(format!(
            "{path} shows {} bytes; a disk has a multiple of 512 and is not empty: qemu-img resize -f qcow2 {path} SIZE",
            header.size
        ));
    }
    Ok(header)
}
