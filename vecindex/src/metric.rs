//! What "near" means, and what a search returns.
//!
//! Inside the crate a distance is any number that grows with the distance (squared for L2); it becomes the user's
//! number only at the public face, by [`Metric::to_user`].

use std::cmp::Ordering;

/// How two vectors are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metric {
    /// Euclidean distance.
    L2,
    /// One minus the cosine of the angle: 0 for the same direction, 2 for the opposite one.
    Cosine,
    /// The negative inner product: smaller is nearer.
    InnerProduct,
}

impl Metric {
    /// The user's distance for an internal one: the root for L2, a cosine kept within 0..=2.
    pub fn to_user(self, internal: f32) -> f32 {
        match self {
            Metric::L2 => internal.max(0.0).sqrt(),
            Metric::Cosine => internal.clamp(0.0, 2.0),
            Metric::InnerProduct => internal,
        }
    }

    /// The number that stands for it in files.
    pub fn code(self) -> u32 {
        match self {
            Metric::L2 => 1,
            Metric::Cosine => 2,
            Metric::InnerProduct => 3,
        }
    }

    /// The metric that a number stands for.
    pub fn from_code(code: u32) -> Option<Metric> {
        [Metric::L2, Metric::Cosine, Metric::InnerProduct].into_iter().find(|m| m.code() == code)
    }
}

/// A row that was found. Ordered by distance, then by id.
///
/// A search orders by the internal distance: two rows whose distances become equal only by the root or by clamping may come
/// in either order of ids.
#[derive(Debug, Clone, Copy)]
pub struct Neighbour {
    /// The row's id: its place in the storage.
    pub id: u32,
    /// Its distance in the user's terms: Euclidean, 1 - cosine, or negative inner product.
    pub distance: f32,
}

impl Ord for Neighbour {
    fn cmp(&self, other: &Self) -> Ordering {
        self.distance.total_cmp(&other.distance).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Neighbour {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Neighbour {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Neighbour {}
