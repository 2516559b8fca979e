//! Rows that are linked together make the same graph whatever the number of threads, a good one, and can be given up half way.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kriya_region::Region;
use vecindex::{
    AppendVectors, Bf16, BuildContext, BuildOn, Encoding, F16, F32, F32Rows, Graph, Hnsw, HnswParams, I8, Metric,
    PushError, Rows, SearchCursor, VectorError, VectorStorage, exact, seal,
};

use crate::data::{empty, label, params, random, vectors};

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn index_of<E: Encoding>(metric: Metric, dim: usize, capacity: u32) -> Hnsw<Rows<E>> {
    let region = Arc::new(Region::heap(Rows::<E>::bytes_needed(dim, capacity).unwrap()).unwrap());
    let graph = Arc::new(Region::heap(Graph::bytes_needed(capacity, params().m).unwrap()).unwrap());
    let rows = Rows::<E>::create(region, metric, dim, capacity).unwrap();
    Hnsw::new(rows, Graph::create(graph, params(), capacity).unwrap()).unwrap()
}

fn files<E: Encoding>(hnsw: &Hnsw<Rows<E>>) -> (Vec<u8>, Vec<u8>) {
    let mut files = (Vec::new(), Vec::new());
    seal(hnsw, &mut files.0, &mut files.1).unwrap();
    files
}

/// A third of the rows linked at once, and then the rest beside them, some of them equal to earlier ones.
fn build<E: Encoding>(metric: Metric, rows: &[Vec<f32>], threads: usize) -> (Vec<u8>, Vec<u8>) {
    let twice = rows.iter().step_by(17).chain(&rows[..3]);
    let all: Vec<&Vec<f32>> = rows.iter().chain(twice).collect();
    let hnsw = index_of::<E>(metric, rows[0].len(), all.len() as u32);
    let (first, rest) = all.split_at(rows.len() / 3);
    for part in [first, rest] {
        part.iter().for_each(|row| assert!(hnsw.append(row, [7, 7]).is_ok()));
        pool(threads).install(|| hnsw.link_pending()).unwrap();
        assert_eq!((hnsw.linked(), hnsw.progress()), (hnsw.len(), hnsw.len()));
        assert_eq!(hnsw.unreached(), []);
    }
    files(&hnsw)
}

fn check<E: Encoding>() {
    let sets = [
        (Metric::L2, vectors("tiny/sift128/base.u8bin")),
        (Metric::Cosine, vectors("tiny/minilm384/base.f16bin")),
        // Enough for two rounds in batches, with upper levels of several nodes.
        (Metric::InnerProduct, random(31, 3300, 24)),
    ];
    for (metric, rows) in sets {
        let one = build::<E>(metric, &rows, 1);
        for threads in [2, 3, 8] {
            assert!(one == build::<E>(metric, &rows, threads), "{metric:?}, {threads} threads");
        }
    }
}

#[test]
fn rows_of_f32() {
    check::<F32>();
}

#[test]
fn rows_of_f16() {
    check::<F16>();
}

#[test]
fn rows_of_bf16() {
    check::<Bf16>();
}

#[test]
fn rows_of_codes() {
    check::<I8>();
}

fn recall(hnsw: &Hnsw, queries: &[Vec<f32>]) -> f64 {
    let mut cursor = SearchCursor::default();
    let mut hits = 0;
    for query in queries {
        let truth = exact(hnsw.storage(), query, 10).unwrap();
        let found = hnsw.search(query, 10, 64, &mut cursor).unwrap();
        hits += found.iter().filter(|n| n.distance <= truth[9].distance).count();
    }
    hits as f64 / (10 * queries.len()) as f64
}

fn linked(metric: Metric, rows: &[Vec<f32>], on: BuildOn) -> Hnsw {
    let hnsw = empty(metric, rows[0].len(), rows.len() as u32, params());
    rows.iter().for_each(|row| assert!(hnsw.append(row, [0, 0]).is_ok()));
    pool(2).install(|| hnsw.link_pending_on(on, || true)).unwrap();
    assert_eq!(hnsw.unreached(), []);
    hnsw
}

#[test]
fn sorted_rows_do_no_harm() {
    let mut rows = vectors("tiny/sift128/base.u8bin");
    let queries = vectors("tiny/sift128/query.u8bin");
    rows.sort_by(|a, b| a.partial_cmp(b).unwrap());
    for on in [BuildOn::Rows, BuildOn::Codes] {
        let got = recall(&linked(Metric::L2, &rows, on), &queries);
        assert!(got >= 0.99, "{on:?}: {got}");
    }
}

#[test]
fn rows_that_codes_cannot_tell_apart_are_compared_themselves() {
    // So far from the origin that a step of the codes is larger than the whole cloud.
    let mut rows = random(43, 3000, 64);
    rows.iter_mut().flatten().for_each(|x| *x += 1000.0);
    let (rows, queries) = rows.split_at(2950);
    let same = |on| files(&linked(Metric::L2, rows, on));
    assert!(same(BuildOn::Codes) == same(BuildOn::Rows));
    let got = recall(&linked(Metric::L2, rows, BuildOn::Codes), queries);
    assert!(got >= 0.7, "{got}");
}

#[test]
fn what_was_given_up_half_way_is_valid_and_can_be_gone_on_with() {
    let rows = vectors("tiny/sift128/base.u8bin");
    let queries = &rows[..20];
    for asks in [0, 1, 300, 600, 1400] {
        let hnsw = empty(Metric::L2, 128, rows.len() as u32, params());
        rows.iter().zip(0..).for_each(|(row, id)| assert!(hnsw.append(row, label(id)).is_ok()));
        let left = AtomicU32::new(asks);
        let go_on = || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        pool(2).install(|| hnsw.link_pending_on(BuildOn::Rows, go_on)).unwrap();
        assert!(hnsw.progress() < hnsw.len() && hnsw.linked() <= hnsw.progress(), "{asks}");
        assert_eq!(hnsw.unreached(), []);
        for query in queries {
            let found = hnsw.search(query, 3, 100, &mut SearchCursor::default()).unwrap();
            assert_eq!(found[0], exact(hnsw.storage(), query, 1).unwrap()[0]);
        }
        // One by one, then all.
        let mut context = BuildContext::default();
        (0..300).for_each(|id| hnsw.link(id, &mut context).unwrap());
        hnsw.link_pending().unwrap();
        assert_eq!((hnsw.linked(), hnsw.progress(), hnsw.unreached()), (hnsw.len(), hnsw.len(), vec![]), "{asks}");
    }
}

#[test]
fn rows_that_come_meanwhile_are_linked_too() {
    let rows = random(47, 4000, 16);
    let hnsw = empty(Metric::L2, 16, rows.len() as u32, HnswParams { ef_construction: 100, ..params() });
    rows[..2000].iter().for_each(|row| assert!(hnsw.append(row, [0, 0]).is_ok()));
    let pool = pool(2);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            // All threads of the pool may be here at once, and must not wait for one another for ever.
            scope.spawn(|| pool.install(|| hnsw.link_pending()).unwrap());
        }
        scope.spawn(|| {
            let mut context = BuildContext::default();
            for row in &rows[2000..] {
                let id = hnsw.append(row, [0, 0]).unwrap();
                if id % 3 == 0 {
                    hnsw.link(id, &mut context).unwrap();
                } else if id % 500 == 1 {
                    pool.install(|| hnsw.link_pending()).unwrap();
                }
            }
        });
    });
    hnsw.link_pending().unwrap();
    assert_eq!((hnsw.linked(), hnsw.progress(), hnsw.unreached()), (4000, 4000, vec![]));
}

/// Who links a row while the rows of a batch are being linked, and must come back from that before they are.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    /// A thread of the pool, on top of its part of the batch.
    Nested,
    /// A task of the pool, which a thread may take up that waits for its part.
    Task,
    Thread,
}

/// Links 2000 rows, and one that comes meanwhile. The batch goes on once that one's link is back.
fn one_comes_meanwhile(threads: usize, how: Meanwhile, go_on: bool) -> Arc<Hnsw> {
    let hnsw = Arc::new(empty(Metric::L2, 4, 2001, params()));
    let rows = random(53, 2001, 4);
    rows[..2000].iter().for_each(|row| assert!(hnsw.append(row, [0, 0]).is_ok()));
    let (index, asks) = (Arc::clone(&hnsw), AtomicU32::new(0));
    let (done, both) = mpsc::channel();
    let came = done.clone();
    let comes = move || {
        // In the third batch, after twice 512 rows.
        let asked = asks.fetch_add(1, Ordering::SeqCst);
        if asked == 700 {
            let id = index.append(&rows[2000], [0, 0]).unwrap();
            let (index, came, (back, wait)) = (Arc::clone(&index), came.clone(), mpsc::sync_channel(1));
            let link = move || {
                index.link(id, &mut BuildContext::default()).unwrap();
                index.link_pending().unwrap();
                came.send(()).unwrap();
                // Nobody waits for a task.
                let _ = back.send(());
            };
            match how {
                Meanwhile::Nested => link(),
                Meanwhile::Task => rayon::spawn(link),
                Meanwhile::Thread => drop(std::thread::spawn(link)),
            }
            if how != Meanwhile::Task {
                wait.recv().unwrap();
            }
        }
        go_on || asked < 700
    };
    let index = Arc::clone(&hnsw);
    std::thread::spawn(move || {
        pool(threads).install(|| index.link_pending_while(comes)).unwrap();
        done.send(()).unwrap();
    });
    for _ in 0..2 {
        let back = both.recv_timeout(Duration::from_secs(100));
        assert!(back.is_ok(), "{how:?} in {threads} threads hangs with {} rows linked", hnsw.progress());
    }
    hnsw
}

#[test]
fn nobody_waits_for_a_batch_and_what_comes_meanwhile_is_linked_after_it() {
    for how in [Meanwhile::Nested, Meanwhile::Task, Meanwhile::Thread] {
        for threads in [1, 2, 4] {
            let hnsw = one_comes_meanwhile(threads, how, true);
            assert_eq!((hnsw.linked(), hnsw.progress(), hnsw.unreached()), (2001, 2001, vec![]), "{how:?}, {threads}");
        }
    }
}

#[test]
fn what_came_meanwhile_stays_pending_if_the_batch_is_given_up() {
    for how in [Meanwhile::Nested, Meanwhile::Thread] {
        let hnsw = one_comes_meanwhile(2, how, false);
        assert_eq!(hnsw.progress(), 1024, "{how:?}");
        hnsw.link_pending().unwrap();
        assert_eq!((hnsw.linked(), hnsw.progress(), hnsw.unreached()), (2001, 2001, vec![]), "{how:?}");
    }
}

/// Rows that count how often they are compared.
struct Counted {
    rows: F32Rows,
    compared: AtomicU64,
}

impl VectorStorage for Counted {
    type Query = <F32Rows as VectorStorage>::Query;

    fn metric(&self) -> Metric {
        self.rows.metric()
    }

    fn dim(&self) -> usize {
        self.rows.dim()
    }

    fn len(&self) -> u32 {
        self.rows.len()
    }

    fn prepare(&self, raw: &[f32], query: &mut Self::Query) -> Result<(), VectorError> {
        self.rows.prepare(raw, query)
    }

    fn prepare_row(&self, id: u32, query: &mut Self::Query) {
        self.rows.prepare_row(id, query);
    }

    fn distances(&self, query: &Self::Query, ids: &[u32], out: &mut [f32]) {
        self.compared.fetch_add(ids.len() as u64, Ordering::Relaxed);
        self.rows.distances(query, ids, out);
    }

    fn distance_between(&self, a: u32, b: u32) -> f32 {
        self.compared.fetch_add(1, Ordering::Relaxed);
        self.rows.distance_between(a, b)
    }

    fn read(&self, id: u32, out: &mut [f32]) {
        self.rows.read(id, out);
    }
}

impl AppendVectors for Counted {
    fn push(&self, raw: &[f32]) -> Result<u32, PushError> {
        self.rows.push(raw)
    }
}

#[test]
fn rows_that_all_find_the_same_are_not_compared_each_with_each() {
    const N: u32 = 12_000;
    let compared = |longest: f32| {
        let params = HnswParams { ef_construction: 32, ..params() };
        let memory = Arc::new(Region::heap(F32Rows::bytes_needed(8, N).unwrap()).unwrap());
        let graph = Arc::new(Region::heap(Graph::bytes_needed(N, params.m).unwrap()).unwrap());
        let rows = F32Rows::create(memory, Metric::InnerProduct, 8, N).unwrap();
        let storage = Counted { rows, compared: AtomicU64::new(0) };
        let hnsw = Hnsw::new(storage, Graph::create(graph, params, N).unwrap()).unwrap();
        for (i, row) in random(59, N as usize, 8).iter_mut().enumerate() {
            // Lengths from 1 to the longest, and few that are long.
            let length = longest.powf((i as f32 * 0.618_034).fract());
            row.iter_mut().for_each(|x| *x *= length);
            hnsw.append(row, [0, 0]).unwrap();
        }
        pool(2).install(|| hnsw.link_pending_on(BuildOn::Rows, || true)).unwrap();
        hnsw.storage().compared.load(Ordering::Relaxed)
    };
    let (even, uneven) = (compared(1.0), compared(1e4));
    // The same walks, and some links more that choose anew; each with each would be more than twice as many.
    assert!(2 * uneven < 3 * even, "{uneven} distances, {even} where all rows are of one length");
}
