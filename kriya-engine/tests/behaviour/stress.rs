//! Everything at once: writers, index inserts and searches beside flushes, sealing and crashes.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kriya_engine::{ClientError, IndexCursor, IndexWritten, NewEntry, PollWait, VectorRef};

use crate::cluster::{Backend, Cluster};
use crate::indexes::{DIM, build, vector};

/// Inserts a row and its index entry in one transaction and commits, unless the worker goes away.
fn insert(backend: &mut Backend, index: u64, tid: u64) -> Result<(), ClientError> {
    let generation = backend.session.generation();
    let mut value = vec![1; 24];
    vector(tid).iter().for_each(|value_of| value.extend_from_slice(&value_of.to_le_bytes()));
    let mut batch = lsmstore::Batch::new();
    batch.put(&kriya_engine::keys::row(9, tid), &value);
    let first = loop {
        match backend.session.write(generation, &batch, &[], &mut PollWait)? {
            kriya_engine::Written::At(first) => break first,
            kriya_engine::Written::Busy => std::thread::yield_now(),
            kriya_engine::Written::Lost => panic!("there were no checks"),
        }
    };
    backend.log(&batch, first);
    let entry = NewEntry { tid, vector: VectorRef::InRow { table: 9, offset: 24, dim: DIM as u16 } };
    loop {
        match backend.session.index_insert(generation, index, &[entry], &mut PollWait)? {
            IndexWritten::At { batch, first, .. } => {
                backend.log(&batch, first);
                break;
            }
            IndexWritten::Busy => std::thread::yield_now(),
            IndexWritten::Dimension { .. } => panic!("all vectors have the same dimensions"),
        }
    }
    // The check before the commit: the worker is still the one that was written through.
    if !backend.session.alive() {
        return Err(ClientError::Gone);
    }
    backend.commit();
    Ok(())
}

#[test]
fn committed_rows_and_entries_survive_any_number_of_worker_crashes_under_load() {
    let mut cluster = Cluster::new();
    cluster.stop();
    cluster.memtable_bytes = 256 << 10;
    cluster.flush_interval = Duration::from_millis(30);
    cluster.start();
    let index = build(&mut cluster.connect(), &[]);
    let committed = Mutex::new(HashSet::new());
    for round in 0..5u64 {
        let enough = committed.lock().unwrap().len() + 300;
        let backends = [0, 1, 2].map(|_| cluster.connect());
        let mut searcher = cluster.connect();
        let worker = cluster.worker.take();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (worker, mut backend) in (0u64..).zip(backends) {
                let committed = &committed;
                scope.spawn(move || {
                    for n in 0..10_000 {
                        let tid = round * 100_000 + worker * 10_000 + n;
                        if insert(&mut backend, index, tid).is_err() {
                            break;
                        }
                        committed.lock().unwrap().insert(tid);
                    }
                });
            }
            let (committed, over, backend) = (&committed, &over, &mut searcher);
            let searching = scope.spawn(move || {
                let mut searches = 0;
                while !over.load(Ordering::Relaxed) {
                    let known: Vec<u64> = committed.lock().unwrap().iter().copied().take(3).collect();
                    for tid in known {
                        let found = (|| {
                            let view = backend.session.view(&mut PollWait)?;
                            let reader = backend.session.index(index, &mut PollWait)?;
                            let mut cursor = IndexCursor::start(reader, view, &vector(tid), 20).unwrap();
                            Ok::<_, ClientError>(cursor.next().unwrap().unwrap().tid)
                        })();
                        match found {
                            Ok(found) => assert_eq!(found, tid),
                            Err(_) => return searches,
                        }
                        backend.session.unpin();
                        searches += 1;
                    }
                }
                searches
            });
            while committed.lock().unwrap().len() < enough {
                std::thread::yield_now();
            }
            // In the middle of everything.
            drop(worker);
            over.store(true, Ordering::Relaxed);
            searching.join().unwrap();
        });
        if round % 2 == 1 {
            cluster.host.lose_unflushed();
        }
        cluster.start();
        let mut reader = cluster.connect();
        let committed = committed.lock().unwrap();
        for tid in committed.iter() {
            assert!(reader.get_row(9, *tid).is_some(), "row {tid} of round {round} is lost");
        }
        let entries: Vec<u64> =
            reader.session.index(index, &mut PollWait).unwrap().entries().map(|(_, tid)| tid).collect();
        let found: HashSet<u64> = entries.iter().copied().collect();
        assert_eq!(found.len(), entries.len(), "an entry is there twice");
        assert!(committed.is_subset(&found), "an entry of round {round} is lost");
    }
}
