//! Vector indexes: inserting, searching, building, sealing, deleting, crashing. The oracle is a scan of all vectors.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use kriya_engine::catalogue::IndexDescription;
use kriya_engine::worker::XidState;
use kriya_engine::{
    Built, ClientError, IndexCursor, IndexDefinition, IndexDeleted, IndexWritten, Metric, NewEntry, PollWait, Progress,
    VectorRef, keys, metric_code,
};
use lsmstore::Batch;

use crate::cluster::{Backend, Cluster, eventually};

pub const DIM: usize = 8;

/// The vector of row `n`: the same on every run, all different.
pub fn vector(n: u64) -> Vec<f32> {
    (0..DIM as u64)
        .map(|i| {
            let mut z = (n * 31 + i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z ^= z >> 29;
            z = z.wrapping_mul(0xbf58_476d_1ce4_e5b9);
            (z >> 40) as f32 / (1u64 << 24) as f32
        })
        .collect()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt()
}

fn description(xid: u64) -> IndexDescription {
    IndexDescription {
        database: 1,
        tablespace: 2,
        relfilenumber: 3,
        created_xid: xid,
        incarnation: 1,
        table: None,
        metric: metric_code(Metric::L2),
        m: 8,
        ef_construction: 40,
        dim: 0,
        name: "index".into(),
    }
}

/// Builds an index over rows and commits it.
pub fn build(backend: &mut Backend, rows: &[u64]) -> u64 {
    let id = backend.session.new_id(&mut PollWait).unwrap().unwrap();
    let built = begin_build(backend, id, rows);
    backend.log(&built.batch, built.first);
    backend.commit();
    id
}

fn begin_build(backend: &mut Backend, id: u64, rows: &[u64]) -> Built {
    begin_build_of(backend, id, rows, vector)
}

fn begin_build_of(backend: &mut Backend, id: u64, rows: &[u64], of: fn(u64) -> Vec<f32>) -> Built {
    try_build_of(backend, id, rows, of).unwrap()
}

/// Builds an index without logging it.
pub fn try_build(backend: &mut Backend, id: u64, rows: &[u64]) -> Result<Built, ClientError> {
    try_build_of(backend, id, rows, vector)
}

fn try_build_of(backend: &mut Backend, id: u64, rows: &[u64], of: fn(u64) -> Vec<f32>) -> Result<Built, ClientError> {
    let generation = backend.session.generation();
    let definition = IndexDefinition { id, description: description(backend.xid), estimated_rows: rows.len() as u64 };
    backend.session.build_begin(generation, &definition, &mut PollWait).unwrap();
    for chunk in rows.chunks(1000) {
        let vectors: Vec<f32> = chunk.iter().flat_map(|row| of(*row)).collect();
        backend.session.build_rows(chunk, &vectors, &mut PollWait).unwrap();
    }
    let mut last = Progress { done: 0, total: 0 };
    let built = backend.session.build_end(&mut |progress| last = progress, &mut PollWait)?;
    assert_eq!(last.done, last.total);
    Ok(built)
}

pub fn insert(backend: &mut Backend, index: u64, rows: impl Iterator<Item = u64>) -> u64 {
    insert_of(backend, index, rows, vector)
}

fn insert_of(backend: &mut Backend, index: u64, rows: impl Iterator<Item = u64>, of: fn(u64) -> Vec<f32>) -> u64 {
    let vectors: Vec<(u64, Vec<f32>)> = rows.map(|row| (row, of(row))).collect();
    let entries: Vec<NewEntry<'_>> =
        vectors.iter().map(|(tid, vector)| NewEntry { tid: *tid, vector: VectorRef::Inline(vector) }).collect();
    backend.index_insert(index, &entries)
}

/// Everything that a search returns, in its order.
pub fn search(backend: &mut Backend, index: u64, query: &[f32]) -> Vec<(u64, f32)> {
    let view = backend.session.view(&mut PollWait).unwrap();
    let reader = backend.session.index(index, &mut PollWait).unwrap();
    drain(IndexCursor::start(reader, view, query, 40).unwrap()).0
}

/// What a search returns from here on, and how many rows it found too late to keep the order.
fn drain(mut cursor: IndexCursor) -> (Vec<(u64, f32)>, usize) {
    let mut found = Vec::new();
    while let Some(row) = cursor.next().unwrap() {
        found.push((row.tid, row.distance));
    }
    (found, cursor.late() as usize)
}

/// Checks that a search finds every row of `rows` once and no other.
pub fn check_all(backend: &mut Backend, index: u64, rows: &HashSet<u64>) {
    let found = search(backend, index, &vector(5));
    let tids: HashSet<u64> = found.iter().map(|(tid, _)| *tid).collect();
    assert_eq!(tids.len(), found.len(), "a row came twice");
    assert!(tids == *rows, "{} rows of {}", found.len(), rows.len());
}

/// Checks that searches find every row of `rows` once and no other, nearly always the nearest first.
fn check(backend: &mut Backend, index: u64, rows: &HashSet<u64>) {
    let mut right = 0;
    for query in 0..20 {
        let query = vector(1_000_000 + query);
        let view = backend.session.view(&mut PollWait).unwrap();
        let reader = backend.session.index(index, &mut PollWait).unwrap();
        let start = || IndexCursor::start(Arc::clone(&reader), Arc::clone(&view), &query, 40).unwrap();
        let (found, late) = drain(start());
        let tids: HashSet<u64> = found.iter().map(|(tid, _)| *tid).collect();
        assert_eq!(tids.len(), found.len(), "a row came twice");
        assert!(tids == *rows, "{} rows of {}", found.len(), rows.len());
        assert!(late * 100 <= rows.len(), "{late} of {} rows came late", rows.len());
        for (tid, got) in &found {
            assert!((distance(&vector(*tid), &query) - got).abs() < 1e-3);
        }
        let (strict, left_out) = drain(start().in_strict_order());
        assert!(strict.windows(2).all(|pair| pair[0].1 <= pair[1].1), "out of order");
        assert_eq!(strict.len() + left_out, rows.len());
        let mut exact: Vec<u64> = rows.iter().copied().collect();
        exact.sort_by(|a, b| distance(&vector(*a), &query).total_cmp(&distance(&vector(*b), &query)));
        let nearest: HashSet<u64> = exact.into_iter().take(10).collect();
        right += found.iter().take(10).filter(|(tid, _)| nearest.contains(tid)).count();
    }
    let all = 20 * rows.len().min(10);
    assert!(right * 100 >= all * 95, "{right} of {all} nearest rows were found");
}

#[test]
fn an_empty_index_takes_rows_that_are_found_at_once_by_everybody() {
    let cluster = Cluster::new();
    let (mut a, mut b) = (cluster.connect(), cluster.connect());
    let index = build(&mut a, &[]);
    assert_eq!(search(&mut b, index, &vector(0)), []);
    for row in 0..300 {
        insert(&mut a, index, row..row + 1);
        assert_eq!(search(&mut b, index, &vector(row))[0].0, row);
    }
    check(&mut b, index, &(0..300).collect());
}

#[test]
fn a_built_index_is_one_sealed_segment_and_takes_more_rows() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &(0..3000).collect::<Vec<_>>());
    check(&mut a, index, &(0..3000).collect());
    let status = a.session.status(&mut PollWait).unwrap();
    assert_eq!((status.indexes[0].segments[0].rows, status.indexes[0].dim), (3000, DIM as u32));
    insert(&mut a, index, 3000..3500);
    check(&mut a, index, &(0..3500).collect());
}

#[test]
fn indexes_come_back_after_crashes_with_built_and_inserted_rows() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &(0..500).collect::<Vec<_>>());
    insert(&mut a, index, 500..800);
    a.commit();
    cluster.restart_after_server_crash();
    let mut a = cluster.connect();
    check(&mut a, index, &(0..800).collect());
    let first = insert(&mut a, index, 800..900);
    assert!(first > 800, "entry numbers are not reused");
    a.commit();
    a.flush();
    cluster.restart_after_worker_crash();
    let mut a = cluster.connect();
    check(&mut a, index, &(0..900).collect());
    cluster.stop();
    cluster.start();
    check(&mut cluster.connect(), index, &(0..900).collect());
}

#[test]
fn files_of_a_segment_that_were_damaged_or_lost_are_fetched_again() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &(0..500).collect::<Vec<_>>());
    cluster.crash_worker();
    let folder = cluster.dir.path().join("segments");
    for (n, entry) in std::fs::read_dir(&folder).unwrap().enumerate() {
        let path = entry.unwrap().path();
        if n % 2 == 0 {
            std::fs::remove_file(path).unwrap();
        } else {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
    }
    cluster.start();
    check(&mut cluster.connect(), index, &(0..500).collect());
}

#[test]
fn an_index_whose_objects_are_gone_is_to_be_rebuilt_and_everything_else_is_served() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &(0..500).collect::<Vec<_>>());
    a.put_row(1, 1, b"row");
    a.commit();
    a.flush();
    drop(a);
    cluster.crash_worker();
    for dir in [cluster.dir.path().join("segments"), cluster.objects().join("bucket/prefix/segments")] {
        std::fs::read_dir(dir).unwrap().for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
    }
    cluster.start();
    let mut b = cluster.connect();
    assert_eq!(b.get_row(1, 1).as_deref(), Some(&b"row"[..]));
    assert!(cluster.host.warned(&format!("index {index} (index) cannot be used and should be rebuilt")));
}

#[test]
fn deleted_entries_are_skipped_at_once_and_stay_away() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &(0..400).collect::<Vec<_>>());
    insert(&mut a, index, 400..800);
    let reader = a.session.index(index, &mut PollWait).unwrap();
    let dead: BTreeMap<u64, u64> = reader.entries().filter(|(_, tid)| tid % 3 == 0).collect();
    let entries: Vec<u64> = dead.keys().copied().collect();
    assert_eq!(entries.len(), 267);
    let generation = a.session.generation();
    let deleted = a.session.index_delete(generation, index, &entries, &mut PollWait).unwrap();
    let IndexDeleted::At { batch, first } = deleted else { panic!() };
    a.log(&batch, first);
    a.commit();
    let left: HashSet<u64> = (0..800).filter(|tid| tid % 3 != 0).collect();
    check(&mut a, index, &left);
    cluster.restart_after_server_crash();
    check(&mut cluster.connect(), index, &left);
}

#[test]
fn vectors_in_rows_are_found_and_come_back() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &[]);
    let mut entries = Vec::new();
    for tid in 0..200 {
        let mut row = vec![1; 24];
        vector(tid).iter().for_each(|value| row.extend_from_slice(&value.to_le_bytes()));
        a.put_row(77, tid, &row);
        let vector = VectorRef::InRow { table: 77, offset: 24, dim: DIM as u16 };
        entries.push(NewEntry { tid, vector });
    }
    a.index_insert(index, &entries);
    a.commit();
    check(&mut a, index, &(0..200).collect());
    cluster.restart_after_server_crash();
    let mut a = cluster.connect();
    check(&mut a, index, &(0..200).collect());
    let generation = a.session.generation();
    for (tid, offset) in [(5000, 24), (1, 40), (1, u32::MAX)] {
        let vector = VectorRef::InRow { table: 77, offset, dim: DIM as u16 };
        let answer = a.session.index_insert(generation, index, &[NewEntry { tid, vector }], &mut PollWait);
        assert!(matches!(answer, Err(ClientError::Worker { .. })), "row {tid} offset {offset}");
    }
}

#[test]
fn other_dimensions_and_vectors_that_are_no_numbers_are_refused() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &[]);
    insert(&mut a, index, 0..1);
    let generation = a.session.generation();
    let mut try_one = |vector: &[f32]| {
        let entry = NewEntry { tid: 1, vector: VectorRef::Inline(vector) };
        a.session.index_insert(generation, index, &[entry], &mut PollWait)
    };
    assert_eq!(try_one(&[1.0; 3]).unwrap(), IndexWritten::Dimension { expected: DIM as u32, got: 3 });
    for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
        assert!(matches!(try_one(&[bad; DIM]), Err(ClientError::Worker { .. })), "{bad}");
    }
    assert!(matches!(
        a.session.index_insert(
            generation,
            index + 1000,
            &[NewEntry { tid: 1, vector: VectorRef::Inline(&vector(1)) }],
            &mut PollWait
        ),
        Err(ClientError::NoSuchIndex(_))
    ));
}

#[test]
fn a_full_active_segment_is_sealed_and_nothing_is_lost_on_the_way() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &[]);
    let rows = 12_000;
    for start in (0..rows).step_by(1000) {
        insert(&mut a, index, start..start + 1000);
    }
    a.commit();
    delete(&mut a, index, |tid| tid % 100 == 0);
    // A flush seals what is worth it.
    a.flush();
    eventually("the segment is sealed", || {
        let status = a.session.status(&mut PollWait).unwrap();
        status.indexes[0].segments.len() == 1 && status.indexes[0].active_rows == 0
    });
    let left: HashSet<u64> = (0..rows).filter(|tid| tid % 100 != 0).collect();
    assert_eq!(a.session.index(index, &mut PollWait).unwrap().rows(), left.len() as u64);
    check_all(&mut a, index, &left);
    insert(&mut a, index, rows..rows + 10);
    a.commit();
    let left: HashSet<u64> = left.into_iter().chain(rows..rows + 10).collect();
    // The segment's record was not logged: unless it was flushed, the entries make the segment again.
    cluster.restart_after_server_crash();
    let mut a = cluster.connect();
    check_all(&mut a, index, &left);
    a.flush();
    cluster.stop();
    cluster.start();
    check_all(&mut cluster.connect(), index, &left);
}

/// Deletes the entries of some rows.
fn delete(backend: &mut Backend, index: u64, which: fn(u64) -> bool) {
    let reader = backend.session.index(index, &mut PollWait).unwrap();
    let dead: Vec<u64> = reader.entries().filter(|(_, tid)| which(*tid)).map(|(entry, _)| entry).collect();
    let generation = backend.session.generation();
    let deleted = backend.session.index_delete(generation, index, &dead, &mut PollWait).unwrap();
    let IndexDeleted::At { batch, first } = deleted else { panic!() };
    backend.log(&batch, first);
    backend.commit();
}

#[test]
fn equal_vectors_are_all_found_built_inserted_deleted_sealed_and_after_crashes() {
    /// Twenty different ones, and one that is there once in each thousand.
    fn of_few(tid: u64) -> Vec<f32> {
        if tid % 1000 == 77 { vec![9.0; DIM] } else { vector(tid * 7 % 20) }
    }
    fn check_few(backend: &mut Backend, index: u64, rows: &HashSet<u64>) {
        check_all(backend, index, rows);
        let alone: HashSet<u64> = rows.iter().copied().filter(|tid| tid % 1000 == 77).collect();
        let found = search(backend, index, &[9.0; DIM]);
        let first: HashSet<u64> = found.iter().take(alone.len()).map(|(tid, _)| *tid).collect();
        assert!(first == alone, "{first:?}");
    }
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = a.session.new_id(&mut PollWait).unwrap().unwrap();
    let built = begin_build_of(&mut a, index, &(0..5000).collect::<Vec<_>>(), of_few);
    a.log(&built.batch, built.first);
    a.commit();
    let mut rows: HashSet<u64> = (0..5000).collect();
    check_few(&mut a, index, &rows);
    for start in (5000..17_000).step_by(500) {
        insert_of(&mut a, index, start..start + 500, of_few);
        rows.extend(start..start + 500);
        check_few(&mut a, index, &rows);
    }
    a.commit();
    delete(&mut a, index, |tid| tid % 3 == 0);
    rows.retain(|tid| tid % 3 != 0);
    check_few(&mut a, index, &rows);
    a.flush();
    eventually("the segment is sealed", || {
        let status = a.session.status(&mut PollWait).unwrap();
        status.indexes[0].active_rows == 0
    });
    check_few(&mut a, index, &rows);
    cluster.restart_after_server_crash();
    check_few(&mut cluster.connect(), index, &rows);
}

#[test]
fn searches_go_on_in_readers_that_are_held_while_segments_change() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    let index = build(&mut a, &(0..2000).collect::<Vec<_>>());
    let mut b = cluster.connect();
    let view = b.session.view(&mut PollWait).unwrap();
    let reader = b.session.index(index, &mut PollWait).unwrap();
    let mut cursor = IndexCursor::start(Arc::clone(&reader), view, &vector(1), 40).unwrap();
    let mut found = HashSet::new();
    for _ in 0..10 {
        found.insert(cursor.next().unwrap().unwrap().tid);
    }
    insert(&mut a, index, 2000..4000);
    a.flush();
    while let Some(row) = cursor.next().unwrap() {
        assert!(found.insert(row.tid));
    }
    assert_eq!(found.iter().filter(|row| **row < 2000).count(), 2000);
}

#[test]
fn an_index_whose_transaction_aborted_or_that_was_dropped_is_gone() {
    let mut cluster = Cluster::new();
    let mut a = cluster.connect();
    let kept = build(&mut a, &[1, 2, 3]);
    let dropped = build(&mut a, &[1, 2, 3]);
    let aborted = a.session.new_id(&mut PollWait).unwrap().unwrap();
    let built = begin_build(&mut a, aborted, &[1, 2, 3]);
    a.log(&built.batch, built.first);
    cluster.host.lock().states.insert(a.xid, XidState::Aborted);
    a.xid = cluster.host.begin();
    let mut batch = Batch::new();
    batch.put(&keys::drop_mark(dropped, a.xid), b"");
    let kriya_engine::Written::At(first) = a.write(&batch, &[]) else { panic!() };
    a.log(&batch, first);
    a.commit();
    cluster.restart_after_server_crash();
    let mut a = cluster.connect();
    assert_eq!(search(&mut a, kept, &vector(2))[0].0, 2);
    for gone in [dropped, aborted] {
        assert!(matches!(a.session.index(gone, &mut PollWait), Err(ClientError::NoSuchIndex(_))), "{gone}");
    }
    // What was decided stays so when the server no longer knows its transactions.
    a.flush();
    drop(a);
    cluster.host.lock().states.clear();
    cluster.restart_after_server_crash();
    let mut a = cluster.connect();
    assert_eq!(search(&mut a, kept, &vector(2))[0].0, 2);
    for gone in [dropped, aborted] {
        assert!(matches!(a.session.index(gone, &mut PollWait), Err(ClientError::NoSuchIndex(_))), "{gone}");
    }
}

#[test]
fn a_build_that_is_given_up_or_cut_off_leaves_nothing() {
    let cluster = Cluster::new();
    let mut a = cluster.connect();
    let generation = a.session.generation();
    let id = a.session.new_id(&mut PollWait).unwrap().unwrap();
    let definition = IndexDefinition { id, description: description(a.xid), estimated_rows: 10 };
    a.session.build_begin(generation, &definition, &mut PollWait).unwrap();
    a.session.build_rows(&[1], &vector(1), &mut PollWait).unwrap();
    a.session.build_abort(&mut PollWait).unwrap();
    assert!(a.session.build_end(&mut |_| {}, &mut PollWait).is_err());
    a.session.build_begin(generation, &definition, &mut PollWait).unwrap();
    assert!(a.session.build_rows(&[1, 2], &[1.0; 5], &mut PollWait).is_err());
    assert!(matches!(a.session.index(id, &mut PollWait), Err(ClientError::NoSuchIndex(_))));
}
