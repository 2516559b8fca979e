//! Whatever happens to the bytes of a file: it is refused, or a search in it ends, in bounds, without a panic; and `verify`
//! notices.
//!
//! The map ends at a page that nobody can touch, so that a read past it ends the test run. Everything runs under a time
//! limit, so that a search that does not end is a failure. Mutations follow from a printed seed.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use kriya_region::Region;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use vecindex::snapshot::{self, Snapshot};
use vecindex::{
    Bf16, Encoding, F16, F32, FilteredSearch, Hnsw, I8, Metric, OpenError, Passing, Rerank, Rows, SearchCursor,
    SplitF32, SplitI8, seal, verify,
};

use crate::data::random;
use crate::encodings::{index_of, stored};

const PAGE: usize = 4096;
const DIM: usize = 9;
/// Longer than it takes on any machine.
const LIMIT: Duration = Duration::from_secs(300);
/// Mutations of each file and kind.
const ROUNDS: usize = 250;

/// Bytes as a map that ends at a guard.
fn guarded(bytes: &[u8]) -> Arc<Region> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    Arc::new(Region::open_file_guarded(&file).unwrap())
}

/// Bytes of any length as a map.
fn mapped(bytes: &[u8]) -> Arc<Region> {
    if !bytes.is_empty() && bytes.len().is_multiple_of(PAGE) {
        return guarded(bytes);
    }
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(if bytes.is_empty() { &[0] } else { bytes }).unwrap();
    Arc::new(Region::open_file(&file).unwrap())
}

/// What a reader may run on a file that nobody verified.
fn search_whatever_it_is<E: Encoding>(hnsw: &Hnsw<Rows<E>>) {
    let mut cursor = SearchCursor::default();
    // A forged dimension refuses the query. The pool is small, so that links are walked.
    if cursor.start(hnsw, &[0.25; DIM], 2).is_ok() {
        let mut ids: Vec<u32> = std::iter::from_fn(|| cursor.next(hnsw)).map(|found| found.id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() == count && ids.iter().all(|id| *id < hnsw.len()), "a row came twice, or is none");
        // A label is whatever stands there.
        ids.iter().for_each(|id| _ = hnsw.label(*id));
    }
    hnsw.unreached();
    copy_it(hnsw);
}

/// A copy of what nobody verified is verified like any other: nothing wrong comes along with the rows.
fn copy_it<E: Encoding>(hnsw: &Hnsw<Rows<E>>) {
    let order: Vec<u32> = (0..hnsw.len()).rev().collect();
    let Ok(copy) = hnsw.in_order(&order, hnsw.len().max(1)) else { return };
    let (mut rows, mut graph) = (Vec::new(), Vec::new());
    seal(&copy, &mut rows, &mut graph).unwrap();
    for bytes in [rows, graph] {
        let verdict = verify(&mapped(&bytes));
        assert!(verdict.is_ok(), "{verdict:?}");
    }
}

/// A file under test: its bytes, whether it opened, and whether `verify` likes it.
trait Subject {
    fn clean(&self) -> &[u8];
    /// Opens and searches the bytes. Whether `verify` found nothing wrong.
    fn survives(&self, bytes: &[u8]) -> Result<(), String>;
    /// Makes the checksums of all headers right again.
    fn forge(&self, bytes: &mut [u8]);
    /// Where headers begin.
    fn headers(&self) -> Vec<usize>;
}

fn forge_header(bytes: &mut [u8], start: usize) {
    if let Some(header) = bytes.get_mut(start..start + PAGE) {
        let crc = crc32c::crc32c(&header[..PAGE - 4]);
        header[PAGE - 4..].copy_from_slice(&crc.to_le_bytes());
    }
}

struct OneFile<E: Encoding> {
    bytes: Vec<u8>,
    headers: Vec<usize>,
    encoding: std::marker::PhantomData<E>,
}

impl<E: Encoding> Subject for OneFile<E> {
    fn clean(&self) -> &[u8] {
        &self.bytes
    }

    fn survives(&self, bytes: &[u8]) -> Result<(), String> {
        let snapshot = Snapshot::of(mapped(bytes)).map_err(|e| e.to_string())?;
        if let Ok(index) = snapshot.index::<E>() {
            search_whatever_it_is(&index);
            if let Some(exact) = snapshot.exact().unwrap() {
                let mut found = vec![vecindex::Neighbour { id: 0, distance: 0.0 }; index.len().min(1) as usize];
                let _ = exact.rerank(&[0.25; DIM], &mut found);
            }
        } else {
            // An encoding that was forged is opened as what it says.
            let _ = snapshot.any().unwrap().search(&[0.25; DIM], 5, 2);
        }
        snapshot.verify().map_err(|e| e.to_string())
    }

    fn forge(&self, bytes: &mut [u8]) {
        self.headers.iter().for_each(|start| forge_header(bytes, *start));
    }

    fn headers(&self) -> Vec<usize> {
        self.headers.clone()
    }
}

/// One of the two files of a seal, beside the other one as it was written.
struct OneOfTwo<E: Encoding> {
    bytes: Vec<u8>,
    other: Vec<u8>,
    is_rows: bool,
    encoding: std::marker::PhantomData<E>,
}

impl<E: Encoding> Subject for OneOfTwo<E> {
    fn clean(&self) -> &[u8] {
        &self.bytes
    }

    fn survives(&self, bytes: &[u8]) -> Result<(), String> {
        let (this, other) = (mapped(bytes), mapped(&self.other));
        let (rows, graph) = if self.is_rows { (this.clone(), other) } else { (other, this.clone()) };
        let opened = Hnsw::<Rows<E>>::open_sealed(rows, graph);
        if let Ok(hnsw) = &opened {
            search_whatever_it_is(hnsw);
        }
        verify(&this).map_err(|e| e.to_string())?;
        opened.map(drop).map_err(|e| e.to_string())
    }

    fn forge(&self, bytes: &mut [u8]) {
        forge_header(bytes, 0);
    }

    fn headers(&self) -> Vec<usize> {
        vec![0]
    }
}

fn subjects<E: Encoding>(metric: Metric) -> Vec<Box<dyn Subject>> {
    let mut rows = random(71, 120, DIM);
    rows.extend_from_within(..30);
    let live = index_of::<E>(metric, &rows);
    let encoding = std::marker::PhantomData;
    let (mut rows_file, mut graph_file, mut one) = (Vec::new(), Vec::new(), Vec::new());
    seal(&live, &mut rows_file, &mut graph_file).unwrap();
    snapshot::write(&live, Some(&stored::<F32>(metric, &rows)), &mut one).unwrap();
    assert!(one.len().is_multiple_of(PAGE), "a guard stands right behind the file");
    let graph = (PAGE + rows_file.len()).next_multiple_of(PAGE);
    let exact = graph + graph_file.len().next_multiple_of(PAGE);
    let headers = vec![0, PAGE, graph, exact];
    let pair = |bytes: &Vec<u8>, other: &Vec<u8>, is_rows| {
        let (bytes, other) = (bytes.clone(), other.clone());
        Box::new(OneOfTwo::<E> { bytes, other, is_rows, encoding }) as Box<dyn Subject>
    };
    vec![
        Box::new(OneFile::<E> { bytes: one, headers, encoding }),
        pair(&rows_file, &graph_file, true),
        pair(&graph_file, &rows_file, false),
    ]
}

/// A place: a field of a header half of the time.
fn place(rng: &mut StdRng, subject: &dyn Subject, length: usize) -> usize {
    let headers = subject.headers();
    let header = headers[rng.random_range(0..headers.len())];
    match rng.random_range(0..4) {
        0 => header + rng.random_range(0..136),
        1 => header + [256, 320, 324, 384, 4092][rng.random_range(0..5)],
        _ => rng.random_range(0..length),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Mutation {
    /// One bit.
    Flip,
    /// The end is missing, or something in the middle.
    Cut,
    /// A range is replaced by another one of the file, or by chance.
    Splice,
    /// A length, an offset or a number is another one, and the header's checksum is right.
    Lie,
    /// Bits of links, towers, labels and rows, many at a time, under headers that are right.
    Storm,
}

const MUTATIONS: [Mutation; 5] = [Mutation::Flip, Mutation::Cut, Mutation::Splice, Mutation::Lie, Mutation::Storm];

fn mutate(mutation: Mutation, subject: &dyn Subject, rng: &mut StdRng) -> Vec<u8> {
    let clean = subject.clean();
    let mut bytes = clean.to_vec();
    match mutation {
        Mutation::Flip => bytes[place(rng, subject, clean.len())] ^= 1 << rng.random_range(0..8),
        Mutation::Cut => {
            let (at, count) = (rng.random_range(0..clean.len()), rng.random_range(1..=2 * PAGE));
            match rng.random_range(0..3) {
                0 => bytes.truncate(at),
                1 => bytes.truncate(at / PAGE * PAGE),
                _ => drop(bytes.drain(at..(at + count).min(clean.len()))),
            }
        }
        Mutation::Splice => {
            let count = rng.random_range(1..=PAGE);
            let (from, to) = (rng.random_range(0..clean.len() - count), rng.random_range(0..clean.len() - count));
            if rng.random_bool(0.5) {
                bytes[to..to + count].copy_from_slice(&clean[from..from + count]);
            } else {
                rng.fill(&mut bytes[to..to + count]);
            }
        }
        Mutation::Lie => {
            let headers = subject.headers();
            let at = headers[rng.random_range(0..headers.len())] + 8 + 4 * rng.random_range(0..32);
            let at =
                if rng.random_bool(0.2) { at - at % PAGE + [256, 320, 324, 384][rng.random_range(0..4)] } else { at };
            let was = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let near = [was.wrapping_add(1), was.wrapping_sub(1), was.wrapping_mul(2), was ^ 1 << 31, was / 2];
            let far = [0, 1, 2, 63, 64, 4096, 1 << 20, i32::MAX as u32, u32::MAX - 1, u32::MAX];
            let value = if rng.random_bool(0.5) {
                near[rng.random_range(0..near.len())]
            } else {
                far[rng.random_range(0..far.len())]
            };
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            subject.forge(&mut bytes);
        }
        Mutation::Storm => {
            let headers = subject.headers();
            for _ in 0..rng.random_range(1..400) {
                let at = rng.random_range(0..clean.len());
                if !headers.iter().any(|start| (*start..start + PAGE).contains(&at)) {
                    bytes[at] = rng.random();
                }
            }
        }
    }
    bytes
}

fn mutations_do_no_harm(seed: u64, name: &str, subjects: &[Box<dyn Subject>]) -> usize {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut searched = 0;
    for (which, subject) in subjects.iter().enumerate() {
        subject.survives(subject.clean()).unwrap();
        for mutation in MUTATIONS {
            for round in 0..ROUNDS {
                let bytes = mutate(mutation, &**subject, &mut rng);
                let verdict = subject.survives(&bytes);
                let same = bytes == subject.clean();
                assert!(
                    verdict.is_ok() == same || mutation == Mutation::Lie,
                    "{name}, file {which}, {mutation:?} {round}: the bytes are {} and verify says {verdict:?}",
                    if same { "the same" } else { "others" }
                );
                searched += 1;
            }
        }
    }
    searched
}

/// Runs on a thread of its own, and fails if it takes too long.
fn within_the_limit(work: impl FnOnce() -> usize + Send + 'static) {
    let (done, wait) = channel();
    let worker = std::thread::spawn(move || done.send(work()));
    match wait.recv_timeout(LIMIT) {
        Ok(count) => println!("{count} mutations"),
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("a search does not end"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {}
    }
    worker.join().unwrap().unwrap();
}

fn check<E: Encoding>(seed: u64, name: &'static str) {
    println!("seed {seed}");
    within_the_limit(move || {
        let metric = [Metric::L2, Metric::Cosine, Metric::InnerProduct][seed as usize % 3];
        mutations_do_no_harm(seed, name, &subjects::<E>(metric))
    });
}

#[test]
fn mutated_files_of_f32_are_refused_or_harmless() {
    check::<F32>(72, "f32");
}

#[test]
fn mutated_files_of_f16_are_refused_or_harmless() {
    check::<F16>(73, "f16");
}

#[test]
fn mutated_files_of_bf16_are_refused_or_harmless() {
    check::<Bf16>(74, "bf16");
}

#[test]
fn mutated_files_of_codes_are_refused_or_harmless() {
    check::<I8>(75, "i8");
}

#[test]
fn mutated_files_of_split_floats_are_refused_or_harmless() {
    check::<SplitF32>(78, "split f32");
}

#[test]
fn mutated_files_of_split_codes_are_refused_or_harmless() {
    check::<SplitI8>(82, "split i8");
}

/// A graph file of 60 rows with other links of level 0, under checksums that are right: a writer that is wrong rather than a disk.
fn relinked(rows: &[Vec<f32>], links: &[(usize, u32)]) -> (Vec<u8>, Vec<u8>) {
    let live = index_of::<F32>(Metric::L2, rows);
    let (mut rows, mut graph) = (Vec::new(), Vec::new());
    seal(&live, &mut rows, &mut graph).unwrap();
    let level0 = u64::from_le_bytes(graph[112..120].try_into().unwrap()) as usize;
    let end = u64::from_le_bytes(graph[32..40].try_into().unwrap()) as usize;
    for (slot, link) in links {
        let at = level0 + 4 * slot;
        graph[at..at + 4].copy_from_slice(&link.to_le_bytes());
    }
    let crc = crc32c::crc32c(&graph[PAGE..end]);
    graph[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    let table = crc32c::crc32c(&graph[end..end + 4]);
    graph[end + 4..end + 8].copy_from_slice(&table.to_le_bytes());
    (rows, graph)
}

#[test]
fn links_that_lead_nowhere_are_found_under_right_checksums() {
    let (rows, graph) = relinked(&random(76, 60, DIM), &[(0, 60)]);
    let error = verify(&mapped(&graph)).unwrap_err();
    assert!(matches!(error, OpenError::Link { id: 0, level: 0, got: 60, below: 60 }), "{error}");
    search_whatever_it_is(&Hnsw::<Rows<F32>>::open_sealed(mapped(&rows), mapped(&graph)).unwrap());
}

#[test]
fn equal_rows_that_make_no_list_are_found_under_right_checksums() {
    let rows = random(77, 60, DIM);
    let degree = 2 * crate::data::params().m;
    let twin = |id: u32| 1 << 31 | id;
    let (list, branch) = (vec![(0, twin(7)), (7 * degree, twin(9))], vec![(0, twin(7)), (1, twin(9))]);
    let (joined, ring) = (vec![(0, twin(7)), (degree, twin(7))], vec![(0, twin(7)), (7 * degree, twin(0))]);
    for (links, expected) in [(list, None), (branch, Some((0, 9))), (joined, Some((1, 7))), (ring, Some((0, 7)))] {
        let (rows, graph) = relinked(&rows, &links);
        let found = match verify(&mapped(&graph)) {
            Ok(()) => None,
            Err(OpenError::Twin { id, got }) => Some((id, got)),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(found, expected);
        search_whatever_it_is(&Hnsw::<Rows<F32>>::open_sealed(mapped(&rows), mapped(&graph)).unwrap());
    }
}

/// Two thirds of the rows are an ordinary search, fewer than half a walk through the others.
fn search_some_of_it<E: Encoding>(hnsw: &Hnsw<Rows<E>>) {
    let mut search = FilteredSearch::default();
    for (of, few) in [(3, 2), (20, 9)] {
        let some = Passing::new(|id| id % of < few);
        let found = hnsw.search_filtered(&[0.25; DIM], 20, 20, &some, &mut search).unwrap();
        let mut ids: Vec<u32> = found.iter().map(|n| n.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!(ids.len() == 20 && ids.iter().all(|id| *id < hnsw.len() && id % of < few), "{found:?}");
    }
}

#[test]
fn searches_among_some_rows_and_copies_do_with_any_links() {
    fn check<E: Encoding>(seed: u64) {
        // So many that those that are allowed are walked to, not compared one by one.
        let mut rows = random(seed, 2000, DIM);
        rows.extend_from_within(..400);
        let live = index_of::<E>(Metric::L2, &rows);
        let (mut rows_file, mut clean) = (Vec::new(), Vec::new());
        seal(&live, &mut rows_file, &mut clean).unwrap();
        let at = |field: usize| u64::from_le_bytes(clean[field..field + 8].try_into().unwrap()) as usize;
        let links = (at(104) / 4, at(32) / 4);
        let mut rng = StdRng::seed_from_u64(seed);
        for round in 0..30 {
            let mut bytes = clean.clone();
            for _ in 0..[0, 1, 30, 1000, 30_000][round % 5] {
                let at = 4 * rng.random_range(links.0..links.1);
                let row = rng.random_range(0..2400);
                let link: u32 = [row, 1 << 31 | row, u32::MAX, rng.random()][rng.random_range(0..4)];
                bytes[at..at + 4].copy_from_slice(&link.to_le_bytes());
            }
            let hnsw = Hnsw::<Rows<E>>::open_sealed(mapped(&rows_file), mapped(&bytes)).unwrap();
            search_some_of_it(&hnsw);
            copy_it(&hnsw);
        }
    }
    within_the_limit(|| {
        check::<F32>(79);
        check::<I8>(80);
        check::<SplitF32>(81);
        check::<SplitI8>(83);
        90
    });
}
