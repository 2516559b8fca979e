//! A sealed index answers as the live one did, and damage is found, or at least does no harm.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use kriya_region::Region;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vecindex::{F32Rows, Hnsw, Metric, Neighbour, OpenError, SealError, SearchCursor, seal, verify};

use crate::data::{empty, index, label, params, random};

fn sealed(hnsw: &Hnsw) -> (Vec<u8>, Vec<u8>) {
    let (mut rows, mut graph) = (Vec::new(), Vec::new());
    let sealed = seal(hnsw, &mut rows, &mut graph).unwrap();
    assert_eq!((sealed.rows_bytes, sealed.graph_bytes), (rows.len() as u64, graph.len() as u64));
    (rows, graph)
}

fn file(bytes: &[u8]) -> Arc<Region> {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(Region::open_file(&file).unwrap())
}

#[test]
fn a_sealed_index_gives_the_same_answers_in_the_same_order() {
    let mut rows = random(31, 1300, 20);
    // Some rows are there more than once.
    rows.extend_from_within(100..300);
    for metric in [Metric::L2, Metric::Cosine, Metric::InnerProduct] {
        let live = index(metric, &rows, rows.len());
        let (r, g) = sealed(&live);
        let (r, g) = (file(&r), file(&g));
        verify(&r).unwrap();
        verify(&g).unwrap();
        let opened = Hnsw::<F32Rows>::open_sealed(r, g).unwrap();
        assert_eq!((opened.len(), opened.linked(), opened.params()), (1500, 1500, live.params()));
        let mut cursor = SearchCursor::default();
        for query in rows.iter().step_by(100) {
            let expected = live.search(query, 60, 30, &mut SearchCursor::default()).unwrap();
            assert_eq!(opened.search(query, 60, 30, &mut cursor).unwrap(), expected);
        }
        assert!((0..1500).all(|id| opened.label(id) == label(id)));
        assert_eq!(opened.unreached(), []);
    }
}

#[test]
fn sealing_the_sealed_gives_the_same_bytes() {
    let rows = random(32, 300, 5);
    let (r, g) = sealed(&index(Metric::L2, &rows, rows.len()));
    let again = sealed(&Hnsw::<F32Rows>::open_sealed(file(&r), file(&g)).unwrap());
    assert!(again == (r, g));
}

#[test]
fn an_empty_index_can_be_sealed_and_opened() {
    let (r, g) = sealed(&empty(Metric::Cosine, 7, 10, params()));
    let (r, g) = (file(&r), file(&g));
    verify(&r).unwrap();
    verify(&g).unwrap();
    let opened = Hnsw::<F32Rows>::open_sealed(r, g).unwrap();
    assert!(opened.search(&[1.0; 7], 5, 5, &mut SearchCursor::default()).unwrap().is_empty());
}

#[test]
fn pending_rows_cannot_be_sealed() {
    let rows = random(33, 20, 3);
    let error = seal(&index(Metric::L2, &rows, 12), &mut Vec::new(), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, SealError::Pending { linked: 12, len: 20 }), "{error}");
}

#[test]
fn an_index_can_be_sealed_while_it_grows() {
    const N: usize = 3000;
    let mut rows = random(41, N - 1000, 8);
    rows.extend_from_within(..1000);
    let hnsw = empty(Metric::L2, 8, N as u32, params());
    for row in &rows[..500] {
        hnsw.append(row, [0, 0]).unwrap();
    }
    hnsw.link_pending().unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut context = vecindex::BuildContext::default();
            for row in &rows[500..] {
                let id = hnsw.append(row, [0, 0]).unwrap();
                hnsw.link(id, &mut context).unwrap();
            }
        });
        let mut sealed_while_growing = 0;
        while !writer.is_finished() {
            let (mut r, mut g) = (Vec::new(), Vec::new());
            match seal(&hnsw, &mut r, &mut g) {
                Err(SealError::Pending { .. }) => continue,
                other => other.unwrap(),
            };
            let (r, g) = (file(&r), file(&g));
            verify(&r).unwrap();
            verify(&g).unwrap();
            let opened = Hnsw::<F32Rows>::open_sealed(r, g).unwrap();
            assert_eq!(opened.unreached(), []);
            let all = opened.search(&rows[0], N, 10, &mut SearchCursor::default()).unwrap();
            assert_eq!(all.len() as u32, opened.len());
            sealed_while_growing += 1;
        }
        println!("sealed {sealed_while_growing} times");
        writer.join().unwrap();
    });
}

#[test]
fn files_of_two_seals_do_not_mix() {
    let rows = random(34, 60, 3);
    let (a, _) = sealed(&index(Metric::L2, &rows[..50], 50));
    let (b, g) = sealed(&index(Metric::L2, &rows[10..], 50));
    assert!(Hnsw::<F32Rows>::open_sealed(file(&b), file(&g)).is_ok());
    assert!(matches!(Hnsw::<F32Rows>::open_sealed(file(&a), file(&g)), Err(OpenError::Mismatch(_))));
    assert!(matches!(Hnsw::<F32Rows>::open_sealed(file(&g), file(&b)), Err(OpenError::Magic { .. })));
}

/// Runs what a reader of an unverified file may run: it must end, in bounds, without a panic.
fn search_whatever_it_is(rows: &[u8], graph: &[u8], query: &[f32]) -> bool {
    let Ok(hnsw) = Hnsw::<F32Rows>::open_sealed(file(rows), file(graph)) else { return false };
    let mut cursor = SearchCursor::default();
    // A forged dimension refuses the query. The pool is small, so that the links are walked.
    let Ok(()) = cursor.start(&hnsw, query, 2) else { return true };
    let found: Vec<Neighbour> = std::iter::from_fn(|| cursor.next(&hnsw)).collect();
    hnsw.unreached();
    let mut ids: Vec<u32> = found.iter().map(|n| n.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() == found.len() && ids.iter().all(|id| *id < hnsw.len()));
    found.iter().for_each(|n| assert_ne!(hnsw.label(n.id), vecindex::NO_LABEL));
    true
}

#[test]
fn every_flipped_bit_is_found_by_verify_and_harms_no_search() {
    let mut rows = random(35, 400, 6);
    rows.extend_from_within(..100);
    let (r, g) = sealed(&index(Metric::L2, &rows, rows.len()));
    let seed = 36;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for which in [0, 1] {
        let clean = [&r, &g][which];
        // All of the header that means something, and places everywhere else.
        let places: Vec<usize> = (0..512).chain((0..700).map(|_| rng.random_range(512..clean.len()))).collect();
        for at in places {
            let mut bytes = clean.clone();
            bytes[at] ^= 1 << rng.random_range(0..8);
            let error = verify(&file(&bytes)).expect_err(&format!("a flip at byte {at} of file {which}"));
            if let OpenError::Checksum { offset, length, .. } = error {
                assert!((offset..offset + length).contains(&(at as u64)), "byte {at}: {error}");
            }
            if which == 0 {
                search_whatever_it_is(&bytes, &g, &rows[0])
            } else {
                search_whatever_it_is(&r, &bytes, &rows[0])
            };
        }
    }
}

#[test]
fn bytes_made_of_chance_harm_no_search() {
    let mut rows = random(37, 400, 6);
    rows.extend_from_within(..100);
    let (r, g) = sealed(&index(Metric::L2, &rows, rows.len()));
    let seed = 38;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut searched = 0;
    for _ in 0..60 {
        let (mut r, mut g) = (r.clone(), g.clone());
        rng.fill(&mut g[4096..]);
        rng.fill(&mut r[4096..]);
        assert!(verify(&file(&g)).is_err());
        searched += u32::from(search_whatever_it_is(&r, &g, &rows[0]));
    }
    assert_eq!(searched, 60, "headers are whole, so all of them open");
}

#[test]
fn a_file_cut_or_grown_is_refused() {
    let rows = random(39, 100, 6);
    let (r, g) = sealed(&index(Metric::L2, &rows, rows.len()));
    for clean in [&r, &g] {
        for keep in [1, 8, 4095, 4096, 5000, clean.len() - 1] {
            let error = verify(&file(&clean[..keep])).unwrap_err();
            assert!(matches!(error, OpenError::Length { .. }), "{keep} bytes: {error}");
        }
        let mut longer = clean.clone();
        longer.push(0);
        assert!(matches!(verify(&file(&longer)), Err(OpenError::Length { .. })));
    }
}

/// Changes a field of a header and makes its checksum right again, as a hostile writer would.
fn forge(clean: &[u8], at: usize, value: u32) -> Vec<u8> {
    let mut bytes = clean.to_vec();
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..4092]);
    bytes[4092..4096].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn forged_headers_are_refused_or_harmless() {
    let rows = random(40, 100, 6);
    let (r, g) = sealed(&index(Metric::L2, &rows, rows.len()));
    for at in (8..512).step_by(4) {
        for value in [0, 1, 2, 99, 101, 1 << 20, i32::MAX as u32, u32::MAX - 1, u32::MAX] {
            search_whatever_it_is(&forge(&r, at, value), &g, &rows[0]);
            search_whatever_it_is(&r, &forge(&g, at, value), &rows[0]);
            let _ = verify(&file(&forge(&r, at, value)));
            let _ = verify(&file(&forge(&g, at, value)));
        }
    }
    let newer = verify(&file(&forge(&g, 8, 7))).unwrap_err();
    assert!(matches!(newer, OpenError::Version { got: 7, expected: 1, .. }), "{newer}");
}
