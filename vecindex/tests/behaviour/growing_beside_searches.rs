//! One writer appends and links; others search the same bytes through maps of their own, read-only, as another process would.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kriya_region::Region;
use vecindex::{BuildContext, F32Rows, Graph, Hnsw, HnswParams, Metric, PushError, SearchCursor, VectorStorage};

use crate::data::{label, random};

struct Shared {
    rows: Arc<Region>,
    graph: Arc<Region>,
}

impl Shared {
    fn new(dim: usize, capacity: u32) -> Shared {
        let rows = Region::shared("rows", F32Rows::bytes_needed(dim, capacity).unwrap()).unwrap();
        let graph = Region::shared("graph", Graph::bytes_needed(capacity, HnswParams::default().m).unwrap()).unwrap();
        Shared { rows: Arc::new(rows), graph: Arc::new(graph) }
    }

    fn writer(&self, metric: Metric, dim: usize, capacity: u32) -> Hnsw {
        let rows = F32Rows::create(self.rows.clone(), metric, dim, capacity).unwrap();
        Hnsw::new(rows, Graph::create(self.graph.clone(), HnswParams::default(), capacity).unwrap()).unwrap()
    }

    fn reader(&self) -> Hnsw {
        let map = |region: &Region| {
            let fd = region.reader().unwrap();
            Arc::new(Region::open_shared(fd.as_fd(), region.capacity()).unwrap())
        };
        let rows = F32Rows::open(map(&self.rows)).unwrap();
        Hnsw::new(rows, Graph::open(map(&self.graph)).unwrap()).unwrap()
    }
}

#[test]
fn searches_through_another_map_see_complete_rows_only_and_find_them() {
    const N: u32 = 4000;
    let rows = random(21, N as usize, 24);
    for metric in [Metric::L2, Metric::Cosine] {
        let shared = Shared::new(24, N);
        let writer = shared.writer(metric, 24, N);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let searchers: Vec<_> = (0..2)
                .map(|t| {
                    let (rows, shared, done) = (&rows, &shared, &done);
                    scope.spawn(move || {
                        let reader = shared.reader();
                        let mut cursor = SearchCursor::default();
                        let mut last = false;
                        let (mut self_hits, mut searches) = (0, 0);
                        for q in (t..).step_by(37) {
                            let before = reader.len();
                            if before > 0 {
                                let target = q as u32 % before;
                                cursor.start(&reader, &rows[target as usize], 40).unwrap();
                                let mut seen = std::collections::HashSet::new();
                                let mut best = None;
                                while let Some(n) = cursor.next(&reader) {
                                    assert!(n.id < reader.len() && n.distance.is_finite());
                                    assert_eq!(reader.label(n.id), label(n.id));
                                    assert!(seen.insert(n.id), "row {} came twice", n.id);
                                    best = best.or(Some(n));
                                    if seen.len() == 60 && q % 8 != 0 {
                                        break;
                                    }
                                }
                                let best = best.unwrap();
                                let mut row = vec![0.0; 24];
                                reader.storage().read(best.id, &mut row);
                                let close = row.iter().zip(&rows[best.id as usize]).all(|(x, y)| (x - y).abs() < 1e-5);
                                assert!(close, "row {} is not what was appended", best.id);
                                assert!(q % 8 != 0 || seen.len() >= before as usize, "a full drain misses rows");
                                self_hits += u32::from(best.id == target);
                                searches += 1;
                            }
                            if last {
                                break;
                            }
                            last = done.load(Ordering::Acquire);
                        }
                        assert!(f64::from(self_hits) >= 0.97 * f64::from(searches), "{self_hits} of {searches}");
                    })
                })
                .collect();
            let writer = &writer;
            let append = scope.spawn({
                let rows = &rows;
                move || {
                    for (i, row) in rows.iter().enumerate() {
                        writer.append(row, label(i as u32)).unwrap();
                    }
                }
            });
            let link = |parity: u32| {
                move || {
                    let mut context = BuildContext::default();
                    for id in (parity..N).step_by(2) {
                        while writer.len() <= id {
                            std::thread::yield_now();
                        }
                        writer.link(id, &mut context).unwrap();
                    }
                }
            };
            let linkers = [scope.spawn(link(0)), scope.spawn(link(1))];
            append.join().unwrap();
            linkers.into_iter().for_each(|l| l.join().unwrap());
            done.store(true, Ordering::Release);
            searchers.into_iter().for_each(|s| s.join().unwrap());
        });
        assert_eq!((writer.linked(), shared.reader().linked()), (N, N));
        let reader = shared.reader();
        let mut cursor = SearchCursor::default();
        let found = |q: &[f32], cursor: &mut SearchCursor| reader.search(q, 1, 64, cursor).unwrap()[0].id;
        let hits = (0..N).filter(|i| found(&rows[*i as usize], &mut cursor) == *i).count();
        assert!(hits as u32 >= N - N / 200, "{hits} of {N} rows find themselves");
    }
}

#[test]
fn who_maps_read_only_cannot_append_or_link() {
    let shared = Shared::new(4, 100);
    let writer = shared.writer(Metric::L2, 4, 100);
    writer.append(&[1.0; 4], [1, 2]).unwrap();
    let reader = shared.reader();
    assert!(matches!(reader.append(&[1.0; 4], [1, 2]), Err(PushError::ReadOnly)));
    assert!(reader.link(0, &mut BuildContext::default()).is_err());
    assert!(reader.link_pending().is_err());
    assert_eq!(reader.label(0), [1, 2]);
}

#[test]
fn memory_is_taken_as_rows_come() {
    let shared = Shared::new(1024, 1 << 20);
    let writer = shared.writer(Metric::L2, 1024, 1 << 20);
    for _ in 0..1000 {
        writer.append(&[1.0; 1024], [0, 0]).unwrap();
    }
    let blocks = |region: &Region| {
        use std::os::unix::fs::MetadataExt;
        std::fs::File::from(region.reader().unwrap()).metadata().unwrap().blocks() * 512
    };
    // 4 GiB of rows are laid out; a thousand of 4 KiB are there, beside 4 MiB of norms.
    assert!(blocks(&shared.rows) < 12 << 20, "{} bytes", blocks(&shared.rows));
}
