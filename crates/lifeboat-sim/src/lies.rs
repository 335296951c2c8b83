//! A host whose answers are not true: what its engine says is changed on the way, in one or more places, into something that can
//! be read as an answer. What cannot be read is the link's business and tested there.

use lifeboat_engine::ports::link::{LogReceipt, PeerReply};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::rng::Rng;

/// Which host lies, how often, and by which draw.
#[derive(Clone, Debug)]
pub struct Lies {
    /// The host.
    pub host: usize,
    /// One of so many answers is a lie.
    pub one_in: u64,
    /// What is drawn from.
    pub rng: Rng,
}

/// Numbers at which programs err.
const NUMBERS: [u64; 9] = [
    0,
    1,
    512,
    4095,
    65_535,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    u64::MAX,
];

impl Lies {
    pub(crate) fn reply(&mut self, true_one: PeerReply) -> PeerReply {
        self.about(true_one)
    }

    pub(crate) fn receipt(&mut self, true_one: LogReceipt) -> LogReceipt {
        self.about(true_one)
    }

    fn about<T: Serialize + DeserializeOwned + Clone>(&mut self, true_one: T) -> T {
        if !self.rng.one_in(self.one_in) {
            return true_one;
        }
        let Ok(value) = serde_json::to_value(&true_one) else {
            return true_one;
        };
        // Most of what is drawn is no answer.
        for _ in 0..20 {
            let mut told = value.clone();
            for _ in 0..=self.rng.below(3) {
                self.change(&mut told);
            }
            if told != value
                && let Ok(lie) = serde_json::from_value(told)
            {
                return lie;
            }
        }
        true_one
    }

    /// Changes one place.
    fn change(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                let n = usize::try_from(self.rng.below(fields.len() as u64)).unwrap_or(0);
                if let Some((_, field)) = fields.iter_mut().nth(n) {
                    self.change(field);
                }
            }
            Value::Array(all) if all.is_empty() => all.push(json!(0)),
            Value::Array(all) => {
                let n = usize::try_from(self.rng.below(all.len() as u64)).unwrap_or(0);
                match self.rng.below(4) {
                    0 => drop(all.remove(n)),
                    1 => all.push(all[n].clone()),
                    2 => all.clear(),
                    _ => self.change(&mut all[n]),
                }
            }
            Value::Number(number) => {
                let now = number.as_u64().unwrap_or(0);
                let n = self.rng.below(2 * NUMBERS.len() as u64);
                *value = match NUMBERS.get(usize::try_from(n).unwrap_or(0)) {
                    Some(number) => json!(number),
                    None if n.is_multiple_of(2) => json!(now.wrapping_add(1)),
                    None => json!(now.saturating_sub(1)),
                };
            }
            Value::Bool(on) => *on = !*on,
            Value::String(text) => {
                // An id stays one, of something else.
                *text = match uuid::Uuid::parse_str(text) {
                    Ok(_) => uuid::Uuid::from_u128(self.rng.draw().into()).to_string(),
                    Err(_) => ["", "running", "off", "Committed", "AAAA"]
                        [usize::try_from(self.rng.below(5)).unwrap_or(0)]
                    .to_owned(),
                };
            }
            Value::Null => *value = json!(1),
        }
    }
}
