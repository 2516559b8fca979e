//! An index in one file answers as it did in memory, here and in another process, and says what it is.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kriya_region::Region;
use vecindex::snapshot::{self, AnyIndex, Snapshot, SnapshotError};
use vecindex::{
    Bf16, ElementType, Encoding, F16, F32, F32Rows, Hnsw, I8, Metric, OpenError, Rerank, Rows, SealError, SearchCursor,
    SplitF32, SplitI8,
};

use crate::data::{empty, index, label, params, random};
use crate::encodings::{index_of, stored};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];

/// Some rows are there more than once.
fn rows(seed: u64) -> Vec<Vec<f32>> {
    let mut rows = random(seed, 700, 19);
    rows.extend_from_within(100..200);
    rows
}

/// Ids and exact distances of a few searches.
fn answers<E: Encoding>(hnsw: &Hnsw<Rows<E>>, queries: &[Vec<f32>]) -> Vec<(u32, u32)> {
    let mut cursor = SearchCursor::default();
    let mut found = Vec::new();
    for query in queries.iter().step_by(90) {
        found.extend(hnsw.search(query, 40, 20, &mut cursor).unwrap());
    }
    found.iter().map(|n| (n.id, n.distance.to_bits())).collect()
}

fn saved_is_the_same<E: Encoding>(element: ElementType) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.kv");
    let rows = rows(51);
    for metric in METRICS {
        let live = index_of::<E>(metric, &rows);
        let exact = stored::<F32>(metric, &rows);
        let bytes = snapshot::save_with_exact(&live, &exact, &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes);
        snapshot::verify(&path).unwrap();

        let opened = Snapshot::open(&path).unwrap();
        let info = opened.info();
        assert_eq!((info.element, info.metric, info.dim, info.rows), (element, metric, 19, 800));
        assert_eq!((info.params, info.exact, info.bytes), (params(), true, bytes));
        let index = opened.index::<E>().unwrap();
        assert_eq!((index.linked(), index.unreached()), (800, vec![]));
        assert_eq!(answers(&index, &rows), answers(&live, &rows));
        assert!((0..800).all(|id| index.label(id) == live.label(id)));

        // What is mapped outlives the value that opened it, and the name.
        let reranked = |exact: &F32Rows| {
            let mut found = live.search(&rows[3], 15, 30, &mut SearchCursor::default()).unwrap();
            exact.rerank(&rows[3], &mut found).unwrap();
            found
        };
        let mapped = opened.exact().unwrap().unwrap();
        drop(opened);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(reranked(&mapped), reranked(&exact));
        assert_eq!(answers(&index, &rows), answers(&live, &rows));
    }
}

#[test]
fn a_saved_index_answers_as_the_one_in_memory_whatever_the_encoding() {
    saved_is_the_same::<F32>(ElementType::F32);
    saved_is_the_same::<SplitF32>(ElementType::SplitF32);
    saved_is_the_same::<F16>(ElementType::F16);
    saved_is_the_same::<Bf16>(ElementType::Bf16);
    saved_is_the_same::<I8>(ElementType::I8);
    saved_is_the_same::<SplitI8>(ElementType::SplitI8);
}

#[test]
fn a_saved_index_answers_the_same_in_another_process() {
    const FILE: &str = "VECINDEX_TEST_SNAPSHOT";
    const ME: &str = "saved_in_one_file::a_saved_index_answers_the_same_in_another_process";
    let rows = rows(52);
    let spell = |found: Vec<(u32, u32)>| format!("answers {found:?}");
    if let Some(path) = std::env::var_os(FILE) {
        println!("{}", spell(answers(&snapshot::open::<I8>(path).unwrap(), &rows)));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.kv");
    let live = index_of::<I8>(Metric::Cosine, &rows);
    snapshot::save(&live, &path).unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap());
    let out = other.args([ME, "--exact", "--nocapture"]).env(FILE, &path).output().unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{said}");
    assert!(said.contains(&spell(answers(&live, &rows))), "{said}");
}

#[test]
fn a_file_opens_without_knowing_what_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(53);
    let path = folder.path().join("f16");
    let live = index_of::<F16>(Metric::L2, &rows);
    snapshot::save(&live, &path).unwrap();
    let any = Snapshot::open(&path).unwrap().any().unwrap();
    assert!(matches!(any, AnyIndex::F16(_)));
    let expected = live.search(&rows[9], 5, 20, &mut SearchCursor::default()).unwrap();
    assert_eq!(any.search(&rows[9], 5, 20).unwrap(), expected);
    assert_eq!(any.label(9), live.label(9));
    assert!(Snapshot::open(&path).unwrap().exact().unwrap().is_none());

    let error = snapshot::open::<I8>(&path).unwrap_err();
    assert!(matches!(error.problem(), OpenError::Field { field: "element type", got: 2, .. }), "{error}");
    assert_eq!((error.path(), error.part()), (Some(&*path), Some(("rows", 4096))));
}

#[test]
fn an_empty_index_is_saved_and_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty");
    snapshot::save(&empty(Metric::Cosine, 7, 10, params()), &path).unwrap();
    snapshot::verify(&path).unwrap();
    let opened = snapshot::open::<F32>(&path).unwrap();
    assert!(opened.search(&[1.0; 7], 5, 5, &mut SearchCursor::default()).unwrap().is_empty());
}

#[test]
fn saving_the_opened_gives_the_same_bytes() {
    let rows = rows(54);
    let bytes = |hnsw: &Hnsw, exact: Option<&F32Rows>| {
        let mut bytes = Vec::new();
        assert_eq!(snapshot::write(hnsw, exact, &mut bytes).unwrap(), bytes.len() as u64);
        bytes
    };
    let live = index(Metric::L2, &rows, rows.len());
    let first = bytes(&live, Some(live.storage()));
    let opened = Snapshot::of(file(&first)).unwrap();
    assert!(bytes(&opened.index().unwrap(), opened.exact().unwrap().as_ref()) == first);
}

fn file(bytes: &[u8]) -> Arc<Region> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(Region::open_file(&file).unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_save_replaces_the_file_as_a_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let rows = rows(55);
    snapshot::save(&index(Metric::L2, &rows[..400], 400), &path).unwrap();
    let before = snapshot::open::<F32>(&path).unwrap();
    let found = answers(&before, &rows);

    let error = snapshot::save(&index(Metric::L2, &rows, 700), &path).unwrap_err();
    assert!(matches!(error, SealError::Pending { linked: 700, len: 800 }), "{error}");
    assert_eq!(names(folder.path()), ["index"]);
    assert_eq!(snapshot::open::<F32>(&path).unwrap().len(), 400);

    snapshot::save(&index(Metric::L2, &rows, 800), &path).unwrap();
    assert_eq!(names(folder.path()), ["index"]);
    assert_eq!(snapshot::open::<F32>(&path).unwrap().len(), 800);
    assert_eq!(answers(&before, &rows), found);

    let nowhere = folder.path().join("no such folder").join("index");
    let error = snapshot::save(&before, &nowhere).unwrap_err();
    assert!(matches!(&error, SealError::File { path, .. } if path.starts_with(nowhere.parent().unwrap())), "{error}");
    assert!(error.source().is_some());
    assert!(matches!(snapshot::save(&before, "/"), Err(SealError::File { .. })));
}

#[test]
fn exact_rows_of_another_index_are_refused() {
    let rows = rows(56);
    let live = index(Metric::L2, &rows, rows.len());
    for other in [
        stored::<F32>(Metric::L2, &rows[1..]),
        stored::<F32>(Metric::Cosine, &rows),
        stored::<F32>(Metric::L2, &random(57, 800, 18)),
    ] {
        let error = snapshot::write(&live, Some(&other), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, SealError::Mismatch(_)), "{error}");
    }
    assert_eq!(live.label(7), label(7));
}

/// Opens bytes as a file by its path, and verifies them if they open.
fn refused(bytes: &[u8]) -> SnapshotError {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let error = snapshot::verify(file.path()).unwrap_err();
    assert_eq!(error.path(), Some(file.path()));
    assert!(error.to_string().starts_with(&format!("{}: ", file.path().display())), "{error}");
    error
}

#[test]
fn foreign_and_cut_files_are_refused_with_what_and_where() {
    let rows = rows(58);
    let mut bytes = Vec::new();
    snapshot::write(&index(Metric::L2, &rows, rows.len()), None, &mut bytes).unwrap();
    assert!(matches!(refused(&[]).problem(), OpenError::Io(_)));
    assert!(matches!(refused(b"PK\x03\x04").problem(), OpenError::Length { got: 4, expected: 4096, .. }));
    let error = refused(&bytes[4096..]);
    assert!(matches!(error.problem(), OpenError::Magic { got, .. } if got == b"KVROWS01"), "{error}");
    for keep in [4096, bytes.len() / 2, bytes.len() - 4096, bytes.len() - 1] {
        let error = refused(&bytes[..keep]);
        let expected = bytes.len() as u64;
        let OpenError::Length { got, expected: said, .. } = error.problem() else { panic!("{error}") };
        assert_eq!((*got, *said), (keep as u64, expected));
    }
    let mut longer = bytes.clone();
    longer.extend([0; 4096]);
    assert!(matches!(refused(&longer).problem(), OpenError::Length { .. }));

    let mut newer = bytes.clone();
    newer[8] = 2;
    assert!(matches!(refused(&newer).problem(), OpenError::Version { got: 2, expected: 1, .. }));

    // The first bytes of the graph are behind the rows, whose length the rows' own header tells.
    let length = u64::from_le_bytes(bytes[4096 + 16..4096 + 24].try_into().unwrap()) as usize;
    let graph = (4096 + length).next_multiple_of(4096);
    let mut changed = bytes.clone();
    changed[graph + 5000] ^= 1;
    let error = refused(&changed);
    assert_eq!(error.part(), Some(("graph", graph as u64)));
    let OpenError::Checksum { offset, length: span, .. } = error.problem() else { panic!("{error}") };
    assert!((*offset..offset + span).contains(&(graph as u64 + 5000)), "{error}");

    let mut changed = bytes;
    changed[4096 + length] = 9;
    let error = refused(&changed);
    let OpenError::Padding { offset, got: 9, .. } = error.problem() else { panic!("{error}") };
    assert_eq!(*offset, (4096 + length) as u64);
}
