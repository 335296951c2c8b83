//! Lists in pages: which part of a list is asked for, and where the next part begins. A page ends behind an item, by what the
//! item is and not by how many came before it, so that what comes and goes between two pages moves nothing: whatever stays is
//! shown once. What a list's order is, and how its items are made, is the list's business.

use crate::contract::Refusal;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::hint;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Items of a page when its caller does not say. Ours: a page of VMs with two disks each has some 1.5 MB then.
pub const USUAL: u32 = 500;

/// Most items of a page. Ours: what is looked at for one answer.
pub const MOST: u32 = 1000;

/// Most bytes of a page's items, as JSON. An item that is larger by itself is a page of its own.
pub const MOST_BYTES: usize = 4 << 20;

/// Which part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paging {
    /// At most this many items; what is out of 1 to [`MOST`] is taken for the nearer end. `None`: [`USUAL`].
    #[serde(default)]
    pub limit: Option<u32>,
    /// Those behind this place, which is the `next` of another page of the same list; `None`: from the beginning.
    #[serde(default)]
    pub after: Option<String>,
}

/// A part of a list. As JSON it is the array of its items.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Page<T> {
    /// In the list's order.
    pub items: Vec<T>,
    /// What to give as [`Paging::after`] for those behind them; `None`: there are no more.
    #[serde(skip)]
    pub next: Option<String>,
}

/// All there is.
impl<T> From<Vec<T>> for Page<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

impl<T> IntoIterator for Page<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.into_iter()
    }
}

impl Paging {
    /// From the beginning, with the usual number of items.
    pub const FIRST: Self = Self {
        limit: None,
        after: None,
    };

    /// How many items.
    pub(crate) fn limit(&self) -> usize {
        let limit = self.limit.unwrap_or(USUAL).clamp(1, MOST);
        usize::try_from(limit).unwrap_or(usize::MAX)
    }

    /// The key of the item behind which the page begins.
    pub(crate) fn key<K: DeserializeOwned>(&self) -> Result<Option<K>, Refusal> {
        let read = |token: &String| {
            let json = URL_SAFE_NO_PAD.decode(token).ok()?;
            serde_json::from_slice(&json).ok()
        };
        match &self.after {
            None => Ok(None),
            Some(token) => read(token).map(Some).ok_or_else(|| not_a_place(token)),
        }
    }

    /// The part of a list that is asked for: of these keys, in whatever order they come, the first ones behind the place, in
    /// the order of keys; and whether others come after them.
    pub(crate) fn first<K: Ord + DeserializeOwned>(
        &self,
        keys: impl Iterator<Item = K>,
    ) -> Result<(Vec<K>, bool), Refusal> {
        let (after, limit) = (self.key::<K>()?, self.limit());
        let mut keys: Vec<K> = keys.filter(|k| after.as_ref().is_none_or(|a| k > a)).collect();
        let more = keys.len() > limit;
        if more {
            keys.select_nth_unstable(limit);
            keys.truncate(limit);
        }
        keys.sort_unstable();
        Ok((keys, more))
    }
}

fn not_a_place(token: &str) -> Refusal {
    let shown: String = token.chars().take(80).collect();
    Refusal::new(
        ReturnCode::InvalidParameter,
        format!("after={shown} is no place in this list"),
        hint::Again::FromNamedPlace,
    )
}

impl<T: Serialize> Page<T> {
    /// A page of these items with their keys; `None`: what has gone since its key was read. `more`: others come after them.
    /// What goes beyond [`MOST_BYTES`] is left for the next page.
    pub(crate) fn of<K: Serialize>(parts: Vec<(K, Option<T>)>, mut more: bool) -> Self {
        let (mut items, mut last, mut bytes) = (Vec::with_capacity(parts.len()), None, 0);
        for (key, item) in parts {
            if let Some(item) = item {
                bytes += json_bytes(&item);
                if bytes > MOST_BYTES && !items.is_empty() {
                    more = true;
                    break;
                }
                items.push(item);
            }
            last = Some(key);
        }
        let next = last.filter(|_| more).and_then(|key| token(&key));
        Self { items, next }
    }
}

/// A key as callers carry it: opaque, and made of what an address takes as it is.
pub(crate) fn token<K: Serialize>(key: &K) -> Option<String> {
    let json = serde_json::to_vec(key).ok()?;
    Some(URL_SAFE_NO_PAD.encode(json))
}

/// Counts what is written.
struct Count(usize);

impl std::io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes of a value as JSON, with the comma after it.
fn json_bytes<T: Serialize>(item: &T) -> usize {
    let mut count = Count(1);
    // What cannot be written is refused where it is written.
    let _ = serde_json::to_writer(&mut count, item);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(limit: u32, mut there: impl FnMut(usize) -> Vec<u32>) -> Vec<Vec<u32>> {
        let mut paging = Paging {
            limit: Some(limit),
            after: None,
        };
        let mut all = Vec::new();
        loop {
            let (keys, more) = paging.first(there(all.len()).into_iter()).unwrap();
            let page = Page::of(keys.into_iter().map(|k| (k, Some(k))).collect(), more);
            all.push(page.items);
            match page.next {
                Some(next) => paging.after = Some(next),
                None => return all,
            }
        }
    }

    #[test]
    fn what_stays_is_shown_once_whatever_comes_and_goes() {
        assert_eq!(pages(3, |_| Vec::new()), [Vec::<u32>::new()]);
        assert_eq!(pages(3, |_| vec![5, 1, 3]), [vec![1, 3, 5]]);
        let changing = |page| match page {
            0 => vec![10, 20, 30, 40, 50],
            // The last one of the first page is gone, and one came before it.
            1 => vec![5, 10, 30, 40, 50],
            _ => vec![50, 60],
        };
        assert_eq!(pages(2, changing), [vec![10, 20], vec![30, 40], vec![50, 60]]);
        // Zero and a million are taken for the nearer end.
        assert_eq!(pages(0, |_| vec![2, 1]), [vec![1], vec![2]]);
        let many = pages(1_000_000, |_| (0..2500).collect());
        assert_eq!(many.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 500]);
    }

    #[test]
    fn what_has_gone_ends_no_list() {
        let page = Page::<u32>::of(vec![(1, None), (2, None)], true);
        assert_eq!((page.items, page.next), (Vec::new(), token(&2)));
    }

    #[test]
    fn a_page_is_bounded_in_bytes() {
        let large = |n: usize| (n, Some("x".repeat(MOST_BYTES / 3)));
        let page = Page::of((0..5).map(large).collect(), false);
        assert_eq!((page.items.len(), page.next), (2, token(&1)));
        let page = Page::of(vec![(7, Some("x".repeat(MOST_BYTES + 1)))], false);
        assert_eq!((page.items.len(), page.next), (1, None));
    }

    #[test]
    fn a_place_of_nowhere_is_refused() {
        let after = |token: &str| Paging {
            limit: None,
            after: Some(token.to_owned()),
        };
        let key = (String::from("web"), 5_u32);
        let read = after(&token(&key).unwrap()).key::<(String, u32)>().unwrap();
        assert_eq!(read, Some(key));
        for wrong in ["", "web", "é", &token(&5).unwrap(), &"A".repeat(5000)] {
            let refusal = after(wrong).key::<(String, u32)>().unwrap_err();
            assert_eq!(refusal.code, ReturnCode::InvalidParameter);
            assert!(refusal.message.len() < 200, "{refusal}");
        }
    }
}
