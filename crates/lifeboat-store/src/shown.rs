//! What a block of a sealed file is on the disk: which bytes the guest sees of it, or a table of the image.

use camino::Utf8Path;
use lifeboat_model::{DiskFormat, Timestamp};

use crate::damage::{Bad, Sealed};
use crate::digest::{BLOCK, LAYER_BLOCK};
use crate::error::{Result, io_error};
use crate::map::{Map, tidy};

/// What damaged blocks of a file mean for the disk.
pub(crate) fn describe(dir: &Utf8Path, item: &Sealed, found: Vec<(u64, String)>, now: Timestamp) -> Vec<Bad> {
    if found.is_empty() {
        return Vec::new();
    }
    let numbers: Vec<u64> = found.iter().map(|(n, _)| *n).collect();
    let places = places(dir, item, &numbers);
    let bad = |((block, seen), place): ((u64, String), Place)| {
        let suspect = place.data.iter().map(|(_, at, len)| (*at, *len)).collect();
        Bad {
            file: item.image.file.clone(),
            disk: Some(item.disk.clone()),
            block,
            seen,
            since: now,
            table: place.table,
            suspect: if place.table {
                vec![(0, item.size)]
            } else {
                tidy(suspect)
            },
            later: None,
            hopeless: false,
            searched: false,
        }
    };
    found.into_iter().zip(places).map(bad).collect()
}

/// What a block of a file is on the disk.
#[derive(Clone)]
pub(crate) struct Place {
    /// First byte in the block, first byte of the disk, length.
    pub(crate) data: Vec<(u64, u64, u64)>,
    /// It holds something else than data, or that is not known.
    pub(crate) table: bool,
}

/// What blocks of a file are on the disk.
pub(crate) fn places(dir: &Utf8Path, item: &Sealed, blocks: &[u64]) -> Vec<Place> {
    let path = dir.join(&item.image.file);
    let unknown = || {
        let place = Place {
            data: Vec::new(),
            table: true,
        };
        vec![place; blocks.len()]
    };
    let raw = |n: &u64| Place {
        data: vec![(0, n * BLOCK, BLOCK)],
        table: false,
    };
    match item.image.format {
        DiskFormat::Raw => blocks.iter().map(raw).collect(),
        DiskFormat::Qcow2 if !item.image.ours => unknown(),
        DiskFormat::Qcow2 => in_layer(&path, item.size, blocks).unwrap_or_else(|_| unknown()),
    }
}

fn in_layer(path: &Utf8Path, size: u64, blocks: &[u64]) -> Result<Vec<Place>> {
    let end = std::fs::metadata(path).map_err(io_error("look at", path))?.len();
    let map = Map::open(path, size)?;
    let mut places: Vec<Vec<(u64, u64, u64)>> = vec![Vec::new(); blocks.len()];
    for (offset, to) in map.windows(1 << 30) {
        for piece in map.pieces(offset, to)? {
            let Some(host) = piece.host else { continue };
            for (block, place) in blocks.iter().zip(&mut places) {
                let (from, till) = (block * LAYER_BLOCK, (block + 1) * LAYER_BLOCK);
                let (a, b) = (host.max(from), (host + piece.len).min(till));
                if a < b {
                    place.push((a - from, piece.offset + (a - host), b - a));
                }
            }
        }
    }
    let place = |(block, data): (&u64, Vec<(u64, u64, u64)>)| {
        let bytes: u64 = data.iter().map(|(_, _, len)| len).sum();
        Place {
            table: bytes < end.saturating_sub(block * LAYER_BLOCK).min(LAYER_BLOCK),
            data,
        }
    };
    Ok(blocks.iter().zip(places).map(place).collect())
}
