//! Encoded rows as bytes: to be kept elsewhere (a log, a store) and pushed back without being rounded anew. Drawn in
//! `format`.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Rows;
use crate::error::{PushError, VectorError};
use crate::format::at;
use crate::storage::{Encoding, VectorStorage, encoding};

impl<E: Encoding> Rows<E> {
    /// Bytes of an encoded row.
    pub fn encoded_len(&self) -> usize {
        size_of::<E::Side>() + E::PARTS * self.part_len()
    }

    /// Encodes a vector as [`push`](crate::AppendVectors::push) would, but stores nothing.
    ///
    /// # Errors
    /// A vector that could not be stored.
    pub fn encode(&self, raw: &[f32]) -> Result<Vec<u8>, VectorError> {
        let scale = self.check(raw)?;
        // As long as a stored row: an encoding may lay its parts out by the length.
        // SAFETY: all zeros is a valid element, as the trait says.
        let mut row = vec![unsafe { std::mem::zeroed::<E::Element>() }; self.base().stride];
        let side = E::encode(self.metric, raw, scale.norm, scale.by, &mut row);
        // SAFETY: elements and sides are numbers without padding between them.
        let (side, elements) = unsafe {
            (
                std::slice::from_raw_parts(std::ptr::from_ref(&side).cast::<u8>(), size_of::<E::Side>()),
                std::slice::from_raw_parts(row.as_ptr().cast::<u8>(), size_of_val(&row[..])),
            )
        };
        Ok(self.packed(side, elements))
    }

    /// Side and elements of a stored row without padding.
    fn packed(&self, side: &[u8], elements: &[u8]) -> Vec<u8> {
        let parts = elements.chunks_exact(self.layout.stride / E::PARTS).map(|part| &part[..self.part_len()]);
        std::iter::once(side).chain(parts).flatten().copied().collect()
    }

    /// Bytes of each part of a row without padding.
    fn part_len(&self) -> usize {
        E::part_len(self.dim, self.layout.stride / E::PARTS)
    }

    /// Row `id` as [`Rows::encode`] would give it; `None` if there is no such row.
    pub fn encoded(&self, id: u32) -> Option<Vec<u8>> {
        if id >= self.len() {
            return None;
        }
        let (elements, side) = self.stored(id);
        Some(self.packed(side, elements))
    }

    /// Appends a row that [`Rows::encode`] or [`Rows::encoded`] gave, of rows of the same dimension and metric. Any other
    /// bytes of that length are a row as well, at distances that mean nothing.
    ///
    /// # Errors
    /// Bytes of another length, no room, no memory, rows that are read-only here.
    pub fn push_encoded(&self, row: &[u8]) -> Result<u32, PushError> {
        let Some(appender) = &self.appender else { return Err(PushError::ReadOnly) };
        if row.len() != self.encoded_len() {
            return Err(PushError::Encoded { got: row.len(), expected: self.encoded_len() });
        }
        let _one = appender.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(start) = self.region.as_mut_ptr() else { return Err(PushError::ReadOnly) };
        let id = self.len();
        if id >= self.capacity {
            return Err(PushError::Full { capacity: self.capacity });
        }
        let offset = self.layout.rows + id as usize * self.layout.stride;
        self.region.commit(offset + self.layout.stride).map_err(PushError::Memory)?;
        let (side, elements) = row.split_at(size_of::<E::Side>());
        // SAFETY: id < capacity, so row and side lie in their sections of the region, which this process writes; no reader
        // looks at them before `len` covers them, and the lock keeps other appenders out. All patterns of bits are valid.
        unsafe {
            let place = start.add(self.layout.sides + id as usize * side.len());
            std::ptr::copy_nonoverlapping(side.as_ptr(), place, side.len());
            for (at, part) in elements.chunks_exact(self.part_len()).enumerate() {
                let place = start.add(offset + at * (self.layout.stride / E::PARTS));
                std::ptr::copy_nonoverlapping(part.as_ptr(), place, part.len());
            }
        }
        self.fields.word(at::LEN).store(id + 1, Ordering::Release);
        Ok(id)
    }

    /// Whether a vector can be stored, and how.
    pub(super) fn check(&self, raw: &[f32]) -> Result<Scale, VectorError> {
        let norm = self.measure(raw)?;
        if self.metric == crate::Metric::Cosine && norm < f32::MIN_POSITIVE {
            return Err(VectorError::Zero);
        }
        let by = self.scale(norm);
        encoding::check::<E>(raw, by)?;
        Ok(Scale { norm, by })
    }
}

/// The length of a vector, and what its components are to be multiplied by.
pub(super) struct Scale {
    pub(super) norm: f32,
    pub(super) by: f64,
}
