//! Codes of a byte a component that stand for the rows while a graph is built.
//!
//! Most of the time of a build goes into comparing rows that are not in the cache, and codes are a quarter of the bytes of f32.
//! Graphs that are built on codes are as good (pyglass and SVS build so as well), as long as codes tell near rows apart. Data
//! for which that does not hold are easily made, far from the origin and close together, say. So some rows are tried first.

use std::sync::Arc;

use kriya_region::Region;
use rayon::prelude::*;

use crate::hnsw::queue::Key;
use crate::storage::{AppendVectors, I8, Rows, VectorStorage};

/// Rows whose nearest ones are looked for, those that they are compared with, and how many are nearest.
const TRIED: usize = 64;
const AMONG: usize = 4096;
const NEAREST: usize = 10;
/// Of a hundred nearest rows, at least so many must be the nearest by their codes, too.
const LEAST: usize = 90;
/// What is smaller is in the cache anyhow.
const SMALLEST: usize = 1 << 19;
/// Rows between two questions whether to go on.
const STEP: u32 = 4096;

/// Codes of the first `end` rows, if they are a good deal smaller than the rows, or say more than these are compared by, and tell `sample` apart as the rows do.
pub(super) fn instead_of<D: VectorStorage>(
    storage: &D,
    end: u32,
    sample: &[u32],
    go_on: &impl Fn() -> bool,
) -> Option<Rows<I8>> {
    let dim = storage.dim();
    // Rows that are not compared by all that they say are taken longer over.
    let worth = storage.is_coarse() || storage.row_bytes() >= 2 * dim.next_multiple_of(64);
    if !worth || storage.row_bytes() * (end as usize) < SMALLEST {
        return None;
    }
    let sample = &sample[..sample.len().min(AMONG)];
    let few = codes(storage, sample.iter().copied(), go_on)?;
    if !agree(storage, &few, sample) {
        return None;
    }
    drop(few);
    codes(storage, 0..end, go_on)
}

/// `None` if a row has no codes, or there is no memory for them, or they are not wanted any more.
fn codes<D: VectorStorage>(
    storage: &D,
    ids: impl ExactSizeIterator<Item = u32>,
    go_on: &impl Fn() -> bool,
) -> Option<Rows<I8>> {
    let (dim, count) = (storage.dim(), u32::try_from(ids.len()).ok()?);
    let region = Arc::new(Region::heap(Rows::<I8>::bytes_needed(dim, count).ok()?).ok()?);
    let rows = Rows::<I8>::create(region, storage.metric(), dim, count).ok()?;
    let mut row = vec![0.0; dim];
    for id in ids {
        if id % STEP == 0 && !go_on() {
            return None;
        }
        storage.read(id, &mut row);
        rows.push(&row).ok()?;
    }
    Some(rows)
}

/// Whether rows and codes have the same rows nearest, or codes are no worse than what the rows would be compared by. `codes` are
/// those of `sample`, in its order.
fn agree<D: VectorStorage>(storage: &D, codes: &Rows<I8>, sample: &[u32]) -> bool {
    let places: Vec<u32> = (0..sample.len() as u32).collect();
    let tried = &places[..places.len().min(TRIED)];
    let same = |place: &u32| {
        let (mut query, mut code) = (D::Query::default(), Default::default());
        storage.prepare_row(sample[*place as usize], &mut query);
        codes.prepare_row(*place, &mut code);
        let mut distances = vec![0.0; sample.len()];
        storage.exact_distances(&query, sample, &mut distances);
        let expected = nearest(&distances, *place);
        let hits = |distances: &[f32]| nearest(distances, *place).iter().filter(|id| expected.contains(id)).count();
        codes.distances(&code, &places, &mut distances);
        let by_codes = hits(&distances);
        if !storage.is_coarse() {
            return [by_codes, expected.len(), expected.len()];
        }
        storage.distances(&query, sample, &mut distances);
        [by_codes, hits(&distances), expected.len()]
    };
    let [by_codes, otherwise, all] =
        tried.par_iter().map(same).reduce(|| [0; 3], |a, b| std::array::from_fn(|i| a[i] + b[i]));
    by_codes * 100 >= all * LEAST || by_codes >= otherwise
}

fn nearest(distances: &[f32], but: u32) -> Vec<u32> {
    let mut keys: Vec<Key> = distances.iter().zip(0..).map(|(d, place)| Key::new(*d, place)).collect();
    keys.retain(|key| key.id() != but);
    keys.sort_unstable();
    keys.iter().take(NEAREST).map(|key| key.id()).collect()
}
