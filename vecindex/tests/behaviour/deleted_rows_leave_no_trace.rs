//! After deletions, insertions and merges an index finds what one that was built afresh finds.

use vecindex::{Encoding, F32, FilteredSearch, I8, IdSet, Index, Metric, Search, SearchCursor, Without, recall};
use vecindex::{Neighbour, exact};

use crate::data::{index, random, vectors};

/// Mean recall of ten with the `ef` given.
fn recall_of<E: Encoding>(index: &Index<E>, queries: &[Vec<f32>], ef: usize) -> f64 {
    let rows = |hits: Vec<vecindex::Hit>| -> Vec<Neighbour> {
        hits.iter().map(|hit| Neighbour { id: hit.key as u32, distance: hit.distance }).collect()
    };
    let how = Search::new().ef(ef);
    let found = index.search_many(queries, 10, &how).unwrap();
    let each = queries
        .iter()
        .zip(found)
        .map(|(query, found)| recall(&rows(found), &rows(index.search_exactly(query, 10, &how).unwrap())));
    each.sum::<f64>() / queries.len() as f64
}

fn churned<E: Encoding>(metric: Metric, base: &str, queries: &str) {
    let (rows, queries) = (vectors(base), vectors(queries));
    let build = || Index::<E>::builder(rows[0].len(), metric).m(8).ef_construction(64).build().unwrap();
    let keep = rows.len() / 11 * 10;
    let mut index = build();
    index.extend((0..).zip(&rows[..keep])).unwrap();
    for key in (0..keep as u64).step_by(10) {
        assert!(index.remove(key));
    }
    index.consolidate().unwrap();
    index.extend((keep as u64..).zip(&rows[keep..])).unwrap();
    let mut fresh = build();
    let live = (0..rows.len()).filter(|at| *at >= keep || at % 10 != 0);
    fresh.extend(live.map(|at| (at as u64, &rows[at]))).unwrap();
    assert_eq!(index.len(), fresh.len());
    for ef in [16, 32, 64] {
        let (churned, fresh) = (recall_of(&index, &queries, ef), recall_of(&fresh, &queries, ef));
        println!("{base} ef {ef}: {churned} after deletions and insertions, {fresh} afresh");
        // Half a point, and what chance may do to one of the few hundred rows that are looked for here.
        assert!(
            churned >= fresh - 0.005 - 3.0 / (10.0 * queries.len() as f64),
            "{base} ef {ef}: {churned} against {fresh}"
        );
    }
}

#[test]
fn recall_is_that_of_a_fresh_build() {
    churned::<F32>(Metric::L2, "tiny/sift128/base.u8bin", "tiny/sift128/query.u8bin");
    churned::<F32>(Metric::Cosine, "packages/base.f16bin.gz", "packages/query.fbin");
    churned::<I8>(Metric::Cosine, "packages/base.f16bin.gz", "packages/query.fbin");
}

#[test]
fn recall_after_a_merge_is_that_of_a_fresh_build() {
    let (rows, queries) = (vectors("packages/base.f16bin.gz"), vectors("packages/query.fbin"));
    let build = |from: usize, to: usize| {
        let mut index: Index = Index::builder(rows[0].len(), Metric::Cosine).m(8).ef_construction(64).build().unwrap();
        index.extend((from..to).map(|at| (at as u64, &rows[at]))).unwrap();
        index
    };
    let fresh = build(0, rows.len());
    for cut in [rows.len() / 3, rows.len() / 2, rows.len() - 10] {
        let mut index = build(0, cut);
        index.merge(build(cut, rows.len())).unwrap();
        assert_eq!(index.len(), rows.len());
        let (merged, fresh) = (recall_of(&index, &queries, 32), recall_of(&fresh, &queries, 32));
        assert!(merged >= fresh - 0.01, "{merged} after a merge at {cut}, {fresh} afresh");
    }
}

#[test]
fn most_rows_may_go_and_the_rest_is_found() {
    let rows = random(41, 6000, 6);
    let hnsw = index(Metric::L2, &rows, rows.len());
    for left in [1, 7, 100, 1000, 5000] {
        for together in [false, true] {
            // Spread over all, or a place from which everything else has gone.
            let stays = |id: u32| if together { id < left } else { id.wrapping_mul(0x9e37_79b1) % 6000 < left };
            let gone: IdSet = (0..6000).filter(|id| !stays(*id)).collect();
            let copy = hnsw.without(&gone, 6000).unwrap();
            assert_eq!((copy.len() as usize, copy.linked()), (6000 - gone.len(), copy.len()));
            assert_eq!(copy.unreached(), Vec::<u32>::new(), "{left} left, together: {together}");
            let mut hits = 0.0;
            for query in &rows[..50] {
                let found = copy.search(query, 10, 64, &mut SearchCursor::default()).unwrap();
                hits += recall(&found, &exact(copy.storage(), query, 10).unwrap());
            }
            assert!(hits >= 0.95 * 50.0, "recall {} of {left} rows, together: {together}", hits / 50.0);
        }
    }
    assert!(hnsw.without(&(0..6000).collect(), 10).unwrap().is_empty());
}

#[test]
fn the_first_of_equal_rows_may_go() {
    let rows: Vec<Vec<f32>> = random(42, 300, 4).into_iter().flat_map(|row| vec![row; 7]).collect();
    let hnsw = index(Metric::L2, &rows, rows.len());
    for gone in [|id: u32| id % 7 < 1, |id: u32| id % 7 != 6, |id: u32| id % 7 == 3, |id: u32| id % 14 < 7] {
        let gone: IdSet = (0..hnsw.len()).filter(|id| gone(*id)).collect();
        let copy = hnsw.without(&gone, hnsw.len()).unwrap();
        assert_eq!(copy.unreached(), Vec::<u32>::new());
        for query in rows.iter().step_by(41) {
            let truth: Vec<f32> = exact(copy.storage(), query, 20).unwrap().iter().map(|n| n.distance).collect();
            let found = copy.search(query, 20, 100, &mut SearchCursor::default()).unwrap();
            assert_eq!(found.iter().map(|n| n.distance).collect::<Vec<_>>(), truth);
            let marked = hnsw.search_filtered(query, 20, 100, &Without(&gone), &mut FilteredSearch::default()).unwrap();
            assert_eq!(marked.iter().map(|n| n.distance).collect::<Vec<_>>(), truth);
        }
    }
}

#[test]
fn consolidation_and_merges_do_not_depend_on_the_number_of_threads() {
    let rows = random(43, 4000, 8);
    let bytes = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let build = |from: usize, to: usize| {
                let mut index: Index = Index::builder(8, Metric::L2).m(8).ef_construction(40).build().unwrap();
                index.extend((from..to).map(|at| (at as u64, &rows[at]))).unwrap();
                index
            };
            let (mut index, other) = (build(0, 2500), build(2500, 4000));
            (0..2500).filter(|key| key % 4 == 1).for_each(|key| assert!(index.remove(key)));
            index.consolidate().unwrap();
            index.merge(other).unwrap();
            let folder = tempfile::tempdir().unwrap();
            index.save(folder.path().join("index")).unwrap();
            std::fs::read(folder.path().join("index")).unwrap()
        })
    };
    let one = bytes(1);
    assert!([2, 3, 8].into_iter().all(|threads| bytes(threads) == one));
}

#[test]
fn a_removed_row_is_nowhere_in_a_file() {
    let rows = random(44, 500, 16);
    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::<I8>::builder(16, Metric::L2).build().unwrap();
    index.extend((0..).map(|key: u64| key << 40 | 0x5eed).zip(&rows)).unwrap();
    let path = folder.path().join("index");
    let contains = |row: &[f32], key: u64| {
        let file = std::fs::read(&path).unwrap();
        let row: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
        let found = |bytes: &[u8]| file.windows(bytes.len()).any(|window| window == bytes);
        (found(&row), found(&key.to_le_bytes()))
    };
    index.save(&path).unwrap();
    assert_eq!(contains(&rows[77], 77 << 40 | 0x5eed), (true, true));
    assert!(index.remove(77 << 40 | 0x5eed));
    index.save(&path).unwrap();
    assert_eq!(contains(&rows[77], 77 << 40 | 0x5eed), (false, false));
    assert_eq!(contains(&rows[78], 78 << 40 | 0x5eed), (true, true));
}

#[test]
fn an_index_without_room_uses_that_of_removed_rows() {
    let mut index: Index = Index::builder(2, Metric::L2).capacity(200).build().unwrap();
    for round in 0..20u64 {
        for key in round * 100..round * 100 + 100 {
            index.add(key, &[key as f32, 1.0]).unwrap();
        }
        if round > 0 {
            (round * 100 - 100..round * 100).for_each(|key| assert!(index.remove(key)));
        }
        assert_eq!(index.len(), 100);
        assert!(index.removed() <= 200, "{} rows removed are still there", index.removed());
    }
    assert_eq!(index.search(&[0.0, 1.0], 1).unwrap()[0].key, 1900);
}
