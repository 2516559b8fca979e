//! Another storage is searched by the same code, and gives the same answers; what it need not say has a default.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use kriya_region::Region;
use vecindex::{
    AppendVectors, BuildContext, F32Rows, Graph, Hnsw, Metric, PushError, SearchCursor, VectorError, VectorStorage,
};

use crate::data::{params, random};

const DIM: usize = 6;
const N: u32 = 900;

/// Rows of whole numbers, compared without any kernel.
struct Whole {
    rows: Box<[OnceLock<[i16; DIM]>]>,
    len: AtomicU32,
}

impl Whole {
    fn row(&self, id: u32) -> [i16; DIM] {
        *self.rows[id as usize].get().unwrap()
    }
}

fn square(a: impl IntoIterator<Item = f32>, b: impl IntoIterator<Item = f32>) -> f32 {
    a.into_iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

impl VectorStorage for Whole {
    type Query = Vec<f32>;

    fn metric(&self) -> Metric {
        Metric::L2
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    fn prepare(&self, raw: &[f32], query: &mut Vec<f32>) -> Result<(), VectorError> {
        raw.clone_into(query);
        Ok(())
    }

    fn prepare_row(&self, id: u32, query: &mut Vec<f32>) {
        *query = self.row(id).map(f32::from).to_vec();
    }

    fn distances(&self, query: &Vec<f32>, ids: &[u32], out: &mut [f32]) {
        for (id, out) in ids.iter().zip(out) {
            *out = square(self.row(*id).map(f32::from), query.iter().copied());
        }
    }

    fn distance_between(&self, a: u32, b: u32) -> f32 {
        square(self.row(a).map(f32::from), self.row(b).map(f32::from))
    }

    fn read(&self, id: u32, out: &mut [f32]) {
        out.copy_from_slice(&self.row(id).map(f32::from));
    }
}

impl AppendVectors for Whole {
    fn push(&self, raw: &[f32]) -> Result<u32, PushError> {
        let id = self.len();
        self.rows[id as usize].set(std::array::from_fn(|at| raw[at] as i16)).unwrap();
        self.len.store(id + 1, Ordering::Release);
        Ok(id)
    }
}

/// Appended and linked one by one, so that two builds take the same steps.
fn build<S: AppendVectors>(storage: S, rows: &[Vec<f32>]) -> Hnsw<S> {
    let graph = Region::heap(Graph::bytes_needed(N, params().m).unwrap()).unwrap();
    let hnsw = Hnsw::new(storage, Graph::create(Arc::new(graph), params(), N).unwrap()).unwrap();
    let mut context = BuildContext::default();
    for row in rows {
        let id = hnsw.append(row, [0, 0]).unwrap();
        hnsw.link(id, &mut context).unwrap();
    }
    hnsw
}

#[test]
fn a_storage_of_ones_own_gives_the_answers_that_the_crates_own_gives() {
    // Small whole numbers: floats hold all distances exactly, in whatever order they are summed. Many rows are equal.
    let mut rows: Vec<Vec<f32>> = random(81, N as usize - 300, DIM);
    rows.iter_mut().flatten().for_each(|x| *x = (*x * 20.0).round());
    rows.extend_from_within(..300);
    let memory = Region::heap(F32Rows::bytes_needed(DIM, N).unwrap()).unwrap();
    let ours = build(F32Rows::create(Arc::new(memory), Metric::L2, DIM, N).unwrap(), &rows);
    let own = build(Whole { rows: (0..N).map(|_| OnceLock::new()).collect(), len: AtomicU32::new(0) }, &rows);
    assert_eq!((own.linked(), own.unreached()), (N, vec![]));
    assert!(
        (0..300)
            .all(|id| own.storage().same(id, id + 600) && own.storage().digest(id) == own.storage().digest(id + 600))
    );
    let different =
        |id: u32| !own.storage().same(id, id + 1) && own.storage().digest(id) != own.storage().digest(id + 1);
    assert!((0..500).filter(|id| different(*id)).count() > 490);
    for query in rows.iter().step_by(30) {
        let (mut a, mut b) = (SearchCursor::default(), SearchCursor::default());
        assert_eq!(
            own.search(query, N as usize, 10, &mut a).unwrap(),
            ours.search(query, N as usize, 10, &mut b).unwrap()
        );
    }
}
