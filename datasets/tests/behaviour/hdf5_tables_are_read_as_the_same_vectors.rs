//! `tiny/sift128/sift128.hdf5` (made by the reference library) holds what the other files of that set hold; files like it
//! that were damaged are refused.

use std::fs;
use std::io::Write;
use std::path::Path;

use kriya_datasets::{Error, ids, vectors};

use crate::data;

const FILE: &str = "tiny/sift128/sift128.hdf5";

fn table(name: &str) -> std::path::PathBuf {
    data(&format!("{FILE}:{name}"))
}

#[test]
fn compressed_and_plain_tables_are_read() {
    assert_eq!(vectors(&table("train")).unwrap(), vectors(&data("tiny/sift128/base.u8bin")).unwrap());
    assert_eq!(vectors(&table("test")).unwrap(), vectors(&data("tiny/sift128/query.u8bin")).unwrap());
    assert_eq!(ids(&table("neighbors")).unwrap(), ids(&data("tiny/sift128/gt-l2.ibin")).unwrap());
    assert_eq!(vectors(&table("distances")).unwrap(), vectors(&data("tiny/sift128/gt-l2.dist.fbin")).unwrap());
}

#[test]
fn elements_of_other_sizes_and_byte_orders_are_converted() {
    let (base, queries) = (vectors(&table("train")).unwrap(), vectors(&table("test")).unwrap());
    let first: Vec<usize> = (0..20).collect();
    assert_eq!(vectors(&table("train_u8")).unwrap(), base.select(&first));
    assert_eq!(vectors(&table("test_f8")).unwrap(), queries.select(&first), "big-endian f64");
    assert_eq!(ids(&table("neighbors_i8")).unwrap(), ids(&table("neighbors")).unwrap().select(&first));
}

#[test]
fn a_gzipped_file_is_unpacked_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&fs::read(data(FILE)).unwrap()).unwrap();
    fs::write(dir.path().join("a.hdf5.gz"), packed.finish().unwrap()).unwrap();
    assert_eq!(vectors(&dir.path().join("a.hdf5.gz:test")).unwrap(), vectors(&table("test")).unwrap());
}

#[test]
fn what_is_not_there_or_not_numbers_of_the_kind_is_named() {
    let said = |name: &str| vectors(&table(name)).unwrap_err().to_string();
    assert!(said("nothing").contains("\"nothing\""), "{}", said("nothing"));
    assert!(said("neighbors").contains("were expected"), "{}", said("neighbors"));
    assert!(said("labels").contains("1 extents, expected 2"), "{}", said("labels"));
    assert!(vectors(&data(FILE)).unwrap_err().to_string().contains(":train"), "a table has to be named");
    assert!(ids(&table("test")).unwrap_err().to_string().contains("ids of 32 or 64 bits were expected"));
    assert!(matches!(vectors(Path::new("/nowhere/a.hdf5:train")), Err(Error::Io { .. })));
}

/// How many of a file's tables can be read.
fn readable(file: &Path) -> usize {
    let table = |name: &str| file.with_file_name(format!("{}:{name}", file.file_name().unwrap().to_str().unwrap()));
    ["train", "test", "distances", "train_u8", "test_f8"].iter().filter(|name| vectors(&table(name)).is_ok()).count()
        + usize::from(ids(&table("neighbors")).is_ok())
}

#[test]
fn tables_of_a_file_that_was_cut_short_are_refused_or_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (fs::read(data(FILE)).unwrap(), dir.path().join("a.hdf5"));
    fs::write(&path, &whole).unwrap();
    assert_eq!(readable(&path), 6);
    let (train, test) = (vectors(&table("train")).unwrap(), vectors(&table("test")).unwrap());
    for part in 0..32 {
        fs::write(&path, &whole[..whole.len() * part / 32]).unwrap();
        for (name, right) in [("train", &train), ("test", &test)] {
            let read = vectors(&dir.path().join(format!("a.hdf5:{name}")));
            assert!(read.is_err() || read.is_ok_and(|read| read == *right), "{name}, cut to {part}/32");
        }
        assert!(part > 16 || readable(&path) < 6, "cut to {part}/32");
    }
}

/// Extents that lie, and bytes of the headers changed: whatever comes of it, the reader returns, and what it allocates is
/// bounded (a wrong extent would otherwise be terabytes).
#[test]
fn a_changed_header_neither_panics_nor_allocates_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, path) = (fs::read(data(FILE)).unwrap(), dir.path().join("a.hdf5"));
    let extent = |rows: u64, dim: u64| [rows.to_le_bytes(), dim.to_le_bytes()].concat();
    let mut lies = 0;
    for (rows, dim) in [(2000, 128), (50, 128), (50, 10), (50, 100)] {
        let honest = extent(rows, dim);
        let places = (0..whole.len() - 16).filter(|at| whole[*at..*at + 16] == honest[..]);
        for at in places.collect::<Vec<usize>>() {
            for lie in [extent(1 << 40, dim), extent(rows, 1 << 40), extent(u64::MAX, u64::MAX), extent(0, 0)] {
                let mut changed = whole.clone();
                changed[at..at + 16].copy_from_slice(&lie);
                fs::write(&path, changed).unwrap();
                readable(&path);
                lies += 1;
            }
        }
    }
    assert!(lies > 0, "the extents were not found where they were looked for");
    for at in (0..4096).step_by(29) {
        let mut changed = whole.clone();
        changed[at] ^= 0xff;
        fs::write(&path, changed).unwrap();
        readable(&path);
    }
}
