//! A vector space answers as rows in memory or in a mapped file do, and comes back as it was.

use std::io::Seek;
use std::path::Path;
use std::sync::Arc;

use kriya_region::Region;
use lsmstore::objects::ObjectStore;
use lsmstore::vectors::{LsmVectors, Space, VectorsError};
use lsmstore::{Batch, Config, Durability, LogChoice, Store, SystemEnv, WriteError, objects};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use vecindex::{
    AppendVectors, Bf16, Encoding, F16, F32, Graph, Hnsw, HnswParams, I8, Metric, PushError, Rows, SearchCursor,
    SplitF32, SplitI8, VectorError, VectorStorage, seal,
};

const METRICS: [Metric; 3] = [Metric::L2, Metric::Cosine, Metric::InnerProduct];
/// Rows of every encoding have padding.
const DIM: usize = 21;
const PREFIX: &[u8] = b"spaces/";

struct Fixture {
    runtime: Runtime,
    folder: tempfile::TempDir,
    objects: Arc<dyn ObjectStore>,
}

impl Fixture {
    fn new() -> Fixture {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        Fixture { runtime, folder: tempfile::tempdir().unwrap(), objects: objects::memory() }
    }

    fn store_with(&self, config: impl Fn(&Path) -> Config, log: LogChoice) -> Store {
        let env = Arc::new(SystemEnv::on(self.runtime.handle().clone()));
        let opening = Store::open(config(self.folder.path()), Arc::clone(&self.objects), env, log);
        self.runtime.block_on(opening).unwrap()
    }

    fn store(&self) -> Store {
        self.store_with(|folder| Config::new(folder, "test").memtable_bytes(64 << 10), LogChoice::Own)
    }
}

fn space<E: Encoding>(metric: Metric) -> Space {
    Space::new::<E>(PREFIX, 7, DIM as u32, metric)
}

fn open<E: Encoding>(store: Store, metric: Metric, capacity: u32) -> Result<LsmVectors<E>, VectorsError> {
    LsmVectors::open(store, space::<E>(metric), capacity, Durability::Local)
}

fn random(seed: u64, n: usize) -> Vec<Vec<f32>> {
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n).map(|_| (0..DIM).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

/// A graph over what a storage has, built in bulk: the same for the same rows.
fn indexed<S: VectorStorage>(storage: S) -> Hnsw<S> {
    let params = HnswParams { m: 6, ef_construction: 40, ..HnswParams::default() };
    let graph = Region::heap(Graph::bytes_needed(storage.len(), params.m).unwrap()).unwrap();
    let graph = Graph::create(Arc::new(graph), params, storage.len()).unwrap();
    let index = Hnsw::over(storage, graph, |id| [id.into(), 1]).unwrap();
    index.link_pending().unwrap();
    index
}

fn answers<S: VectorStorage>(index: &Hnsw<S>, queries: &[Vec<f32>]) -> Vec<(u32, u32, [u64; 2])> {
    assert_eq!((index.linked(), index.unreached()), (index.len(), vec![]));
    let mut cursor = SearchCursor::default();
    let mut found = Vec::new();
    for query in queries.iter().step_by(40) {
        found.extend(index.search(query, 30, 20, &mut cursor).unwrap());
    }
    found.iter().map(|n| (n.id, n.distance.to_bits(), index.label(n.id))).collect()
}

fn memory_file_and_store_agree<E: Encoding>() {
    let mut rows = random(1, 700);
    // Some rows are there more than once.
    rows.extend_from_within(..100);
    for metric in METRICS {
        let region = Region::heap(Rows::<E>::bytes_needed(DIM, 800).unwrap()).unwrap();
        let memory = Rows::<E>::create(Arc::new(region), metric, DIM, 800).unwrap();
        for row in &rows {
            memory.push(row).unwrap();
        }
        let memory = indexed(memory);
        let expected = answers(&memory, &rows);

        let mut file = tempfile::tempfile().unwrap();
        seal(&memory, &mut file, &mut Vec::new()).unwrap();
        file.rewind().unwrap();
        let mapped = Rows::<E>::open(Arc::new(Region::open_file(&file).unwrap())).unwrap();
        assert!(answers(&indexed(mapped), &rows) == expected, "mapped file, {metric:?}");

        let fixture = Fixture::new();
        let vectors = open::<E>(fixture.store(), metric, 1000).unwrap();
        vectors.extend(&rows[..500]).unwrap();
        for row in &rows[500..510] {
            vectors.push(row).unwrap();
        }
        assert_eq!(vectors.extend(&rows[510..]).unwrap(), 800);
        assert!(answers(&indexed(vectors), &rows) == expected, "store, {metric:?}");

        // And again from what the store kept: in the log alone, then in tables.
        let store = fixture.store();
        let vectors = open::<E>(store.clone(), metric, 800).unwrap();
        assert!(answers(&indexed(vectors), &rows) == expected, "store after a start, {metric:?}");
        fixture.runtime.block_on(store.flush()).unwrap();
        drop(store);
        let vectors = open::<E>(fixture.store(), metric, 800).unwrap();
        assert!(answers(&indexed(vectors), &rows) == expected, "store after a flush, {metric:?}");
    }
}

#[test]
fn f32_in_memory_in_a_mapped_file_and_in_a_store_give_equal_answers() {
    memory_file_and_store_agree::<F32>();
}

#[test]
fn halves_in_memory_in_a_mapped_file_and_in_a_store_give_equal_answers() {
    memory_file_and_store_agree::<F16>();
    memory_file_and_store_agree::<Bf16>();
}

#[test]
fn codes_in_memory_in_a_mapped_file_and_in_a_store_give_equal_answers() {
    memory_file_and_store_agree::<I8>();
}

#[test]
fn split_floats_in_memory_in_a_mapped_file_and_in_a_store_give_equal_answers() {
    memory_file_and_store_agree::<SplitF32>();
}

#[test]
fn split_codes_in_memory_in_a_mapped_file_and_in_a_store_give_equal_answers() {
    memory_file_and_store_agree::<SplitI8>();
}

#[test]
fn an_index_grows_over_a_store_and_its_rows_are_there_after_a_crash() {
    let fixture = Fixture::new();
    let rows = random(2, 300);
    let params = HnswParams { m: 6, ef_construction: 40, ..HnswParams::default() };
    let graph = Region::heap(Graph::bytes_needed(400, params.m).unwrap()).unwrap();
    let vectors = open::<F32>(fixture.store(), Metric::L2, 400).unwrap();
    let index = Hnsw::over(vectors, Graph::create(Arc::new(graph), params, 400).unwrap(), |_| [0; 2]).unwrap();
    for (id, row) in rows.iter().enumerate() {
        assert_eq!(index.append(row, [id as u64, 0]).unwrap(), id as u32);
    }
    index.link_pending().unwrap();
    let found = index.search(&rows[123], 1, 20, &mut SearchCursor::default()).unwrap();
    assert_eq!(index.label(found[0].id), [123, 0]);
    // Nobody is told of a stop.
    drop(index);
    let vectors = open::<F32>(fixture.store(), Metric::L2, 400).unwrap();
    let mut row = vec![0.0; DIM];
    for (id, expected) in (0..).zip(&rows) {
        vectors.read(id, &mut row);
        assert_eq!(row, *expected);
    }
    assert_eq!((vectors.len(), vectors.capacity()), (300, 400));
}

#[test]
fn a_vector_that_cannot_be_stored_is_not_logged_either() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let vectors = open::<F16>(store.clone(), Metric::L2, 3).unwrap();
    let before = store.last_sequence();
    assert!(matches!(vectors.push(&[0.0; 3]), Err(PushError::Vector(VectorError::Dimension { got: 3, .. }))));
    assert!(matches!(vectors.push(&[1e6; DIM]), Err(PushError::Vector(VectorError::OutOfRange { at: 0, .. }))));
    assert!(matches!(vectors.extend([[1.0; DIM]; 4]), Err(PushError::Full { capacity: 3 })));
    assert_eq!((store.last_sequence(), vectors.len()), (before, 0));
    // What comes before one that cannot be stored is appended.
    assert!(matches!(vectors.extend([[1.0; DIM], [f32::NAN; DIM], [2.0; DIM]]), Err(PushError::Vector(_))));
    assert_eq!((store.last_sequence(), vectors.len()), (before + 1, 1));
    assert!(matches!(open::<F16>(store, Metric::L2, 0), Err(VectorsError::Create(_))));
}

#[test]
fn a_store_that_refuses_a_row_is_heard_and_nothing_is_appended() {
    let fixture = Fixture::new();
    let store = fixture.store();
    let vectors = open::<F32>(store.clone(), Metric::L2, 10).unwrap();
    vectors.push(&[1.0; DIM]).unwrap();
    fixture.runtime.block_on(store.close()).unwrap();
    let error = vectors.push(&[2.0; DIM]).unwrap_err();
    let PushError::Log(why) = &error else { panic!("{error}") };
    assert!(matches!(why.downcast_ref::<WriteError>(), Some(WriteError::Unusable(_))), "{error}");
    assert_eq!(vectors.len(), 1);
}

#[test]
fn a_space_is_what_it_was_made_as() {
    let fixture = Fixture::new();
    let store = fixture.store();
    drop(open::<F32>(store.clone(), Metric::L2, 10).unwrap());
    let error = open::<F32>(store.clone(), Metric::Cosine, 10).unwrap_err();
    assert!(matches!(&error, VectorsError::Other { found, .. } if found.metric() == Metric::L2), "{error}");
    assert!(matches!(open::<I8>(store.clone(), Metric::L2, 10), Err(VectorsError::Other { .. })));
    let other = Space::new::<I8>(PREFIX, 8, 3, Metric::L2);
    // Of another encoding than the rows that are asked for.
    let error = LsmVectors::<F32>::open(store.clone(), other.clone(), 10, Durability::Local).unwrap_err();
    assert!(matches!(error, VectorsError::Other { .. }), "{error}");
    // Two spaces under one prefix do not know of each other.
    let eight = LsmVectors::<I8>::open(store.clone(), other, 10, Durability::Local).unwrap();
    eight.push(&[1.0, 2.0, 3.0]).unwrap();
    assert_eq!(open::<F32>(store, Metric::L2, 10).unwrap().len(), 0);
}

#[test]
fn rows_that_make_no_sense_are_an_error_that_says_where() {
    let key = |kind: u8, rest: &[u8]| [PREFIX, &7u32.to_be_bytes(), &[kind], rest].concat();
    let row = |id: u32| key(b'r', &id.to_be_bytes());
    let value = |store: &Store, key: &[u8]| {
        let view = store.view().unwrap();
        view.get(key, view.read_sequence()).unwrap().unwrap().to_vec()
    };
    let with = |change: &dyn Fn(&Store, &mut Batch)| {
        let fixture = Fixture::new();
        let store = fixture.store();
        open::<F32>(store.clone(), Metric::L2, 10).unwrap().extend([[1.0; DIM], [2.0; DIM], [3.0; DIM]]).unwrap();
        let mut batch = Batch::new();
        change(&store, &mut batch);
        fixture.runtime.block_on(store.write(batch, Durability::Memory)).unwrap();
        open::<F32>(store, Metric::L2, 10).unwrap_err()
    };
    let missing = with(&|_, batch| _ = batch.delete(&row(1)));
    assert!(matches!(&missing, VectorsError::Corrupt(e) if e.what.contains("expected row 1")), "{missing}");
    let cut = with(&|store, batch| _ = batch.put(&row(2), &value(store, &row(2))[1..]));
    assert!(matches!(&cut, VectorsError::Corrupt(e) if e.object == "row 2 of vector space 7"), "{cut}");
    for (at, name) in
        [(0, "version"), (1, "encoding"), (2, "metric"), (3, "normalized"), (4, "space"), (8, "dimension")]
    {
        let error = with(&|store, batch| {
            let mut bytes = value(store, &row(0));
            bytes[at] ^= 1;
            batch.put(&row(0), &bytes);
        });
        assert!(matches!(&error, VectorsError::Corrupt(e) if e.offset == at as u64), "{name}: {error}");
    }
    for (at, bytes) in [(0, 2), (1, 9), (2, 0), (3, 1)] {
        let error = with(&|store, batch| {
            let mut space = value(store, &key(b's', &[]));
            space[at] = bytes;
            batch.put(&key(b's', &[]), &space);
        });
        assert!(matches!(&error, VectorsError::Corrupt(e) if e.offset == at as u64), "{error}");
    }
    let short = with(&|_, batch| _ = batch.put(&key(b's', &[]), &[1, 1, 1]));
    assert!(matches!(&short, VectorsError::Corrupt(_)), "{short}");
    let full = with(&|store, batch| {
        for id in 3..11 {
            batch.put(&row(id), &value(store, &row(0)));
        }
    });
    assert!(matches!(full, VectorsError::Full { capacity: 10 }), "{full}");
}

#[test]
fn without_a_log_rows_are_kept_until_the_next_flush_and_no_more_is_promised() {
    let fixture = Fixture::new();
    let config = |folder: &Path| Config::new(folder, "test");
    let store = fixture.store_with(config, LogChoice::Nobody);
    assert!(matches!(
        open::<F32>(store.clone(), Metric::L2, 10),
        Err(VectorsError::Write(WriteError::WrongLog { .. }))
    ));
    let memory = LsmVectors::<F32>::open(store.clone(), space::<F32>(Metric::L2), 10, Durability::Memory).unwrap();
    memory.push(&[1.0; DIM]).unwrap();
    fixture.runtime.block_on(store.flush()).unwrap();
    drop((memory, store));
    let store = fixture.store_with(config, LogChoice::Nobody);
    let memory = LsmVectors::<F32>::open(store, space::<F32>(Metric::L2), 10, Durability::Memory).unwrap();
    assert_eq!(memory.len(), 1);
}
