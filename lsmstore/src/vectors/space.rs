//! What the rows of a vector space are, and where they stand.

use std::fmt::{self, Display, Formatter};

use vecindex::{ElementType, Encoding, Metric};

use crate::error::Corruption;

/// A vector space: where its rows stand in a store, and what they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    prefix: Vec<u8>,
    id: u32,
    dim: u32,
    metric: Metric,
    element: ElementType,
}

/// Of the formats of this module.
pub(super) const VERSION: u8 = 1;
/// What a key ends in, or has before the row's id.
const SPACE: u8 = b's';
const ROW: u8 = b'r';

impl Space {
    /// Space number `id` under `prefix`, of rows of `dim` components that are encoded as `E`.
    pub fn new<E: Encoding>(prefix: &[u8], id: u32, dim: u32, metric: Metric) -> Space {
        Space { prefix: prefix.to_vec(), id, dim, metric, element: ElementType::of::<E>() }
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Components of every row.
    pub fn dim(&self) -> u32 {
        self.dim
    }

    /// How rows are compared.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// How rows are encoded.
    pub fn element(&self) -> ElementType {
        self.element
    }

    fn key_of(&self, kind: u8) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(&self.id.to_be_bytes());
        key.push(kind);
        key
    }

    /// The key of what says what the space is.
    pub(super) fn key(&self) -> Vec<u8> {
        self.key_of(SPACE)
    }

    /// What the keys of all rows begin with.
    pub(super) fn rows(&self) -> Vec<u8> {
        self.key_of(ROW)
    }

    /// The key of a row.
    pub(super) fn row(&self, id: u32) -> Vec<u8> {
        let mut key = self.rows();
        key.extend_from_slice(&id.to_be_bytes());
        key
    }

    /// Codes of encoding and metric, as they stand in values.
    pub(super) fn codes(&self) -> [u8; 2] {
        [self.element.code() as u8, self.metric.code() as u8]
    }

    /// The value under [`Space::key`].
    pub(super) fn encode(&self) -> Vec<u8> {
        let [element, metric] = self.codes();
        let mut value = vec![VERSION, element, metric, 0];
        value.extend_from_slice(&self.dim.to_le_bytes());
        value
    }

    /// The space whose value was found in the place of this one's.
    pub(super) fn decode(&self, value: &[u8]) -> Result<Space, Corruption> {
        let bad = |offset: u64, what: String| Corruption::new(format!("vector space {}", self.id), offset, what);
        let [version, element, metric, zero, dim @ ..] = value else {
            return Err(bad(0, format!("it has {} bytes, expected 8", value.len())));
        };
        if *version != VERSION {
            return Err(bad(0, format!("it is of version {version}, expected {VERSION}")));
        }
        let element = ElementType::from_code((*element).into())
            .ok_or_else(|| bad(1, format!("encoding {element}, expected 1 to 6")))?;
        let metric =
            Metric::from_code((*metric).into()).ok_or_else(|| bad(2, format!("metric {metric}, expected 1 to 3")))?;
        if *zero != 0 {
            return Err(bad(3, format!("a byte that means nothing is {zero}, expected 0")));
        }
        let dim = dim.try_into().map_err(|_| bad(4, format!("it has {} bytes, expected 8", value.len())))?;
        Ok(Space { prefix: self.prefix.clone(), id: self.id, dim: u32::from_le_bytes(dim), metric, element })
    }
}

impl Display for Space {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "rows of {} x {} compared by {:?}", self.dim, self.element, self.metric)
    }
}
