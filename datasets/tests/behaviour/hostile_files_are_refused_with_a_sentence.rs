//! Headers that lie, files that end early and names that say nothing are errors; nothing panics or allocates by them.

use std::fs;
use std::io::Write;

use kriya_datasets::{Error, ids, vectors};

fn said(name: &str, bytes: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    vectors(&path).map(|m| format!("it was read as {} x {}", m.len(), m.dim())).unwrap_or_else(|e| e.to_string())
}

#[test]
fn a_header_that_promises_more_than_is_there_is_refused_without_allocating_it() {
    let huge = [0xff_u8; 8];
    let message = said("a.fbin", &huge);
    assert!(message.contains("4294967295 x 4294967295") && message.contains("0 bytes follow"), "{message}");
}

#[test]
fn a_file_with_bytes_after_the_last_row_is_refused() {
    let message = said("a.u8bin", &[1, 0, 0, 0, 2, 0, 0, 0, 7, 7, 7]);
    assert!(message.contains("1 x 2") && message.contains("3 bytes follow"), "{message}");
}

#[test]
fn a_file_that_ends_within_its_header_is_refused() {
    for name in ["a.fbin", "a.fvecs", "a-idx3-ubyte"] {
        for len in 0..4 {
            let message = said(name, &vec![0; len]);
            assert!(!message.starts_with("it was read"), "{name} of {len} bytes: {message}");
        }
    }
    let message = said("a-idx3-ubyte", &[0, 0, 8, 3, 0, 0]);
    assert!(message.contains("its header alone has 16"), "{message}");
}

#[test]
fn rows_of_no_dimension_are_refused() {
    assert!(said("a.fbin", &[9, 0, 0, 0, 0, 0, 0, 0]).contains("0 dimensions"));
    assert!(said("a.fvecs", &[0; 8]).contains("0 dimensions"));
    assert!(said("a.fvecs", &(-1_i32).to_le_bytes()).contains("-1 dimensions"));
    assert!(said("a-idx3-ubyte", &[0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]).contains("extents"));
}

#[test]
fn rows_of_different_dimensions_are_refused() {
    let mut bytes = Vec::new();
    for dim in [1_i32, 2] {
        bytes.extend_from_slice(&dim.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    let message = said("a.fvecs", &bytes);
    assert!(message.contains("row 1"), "{message}");
}

#[test]
fn extents_whose_product_overflows_are_refused() {
    let mut bytes = vec![0, 0, 8, 4];
    bytes.extend_from_slice(&[0xff; 16]);
    assert!(said("a-idx3-ubyte", &bytes).contains("extents"));
}

#[test]
fn a_gzip_stream_that_ends_early_is_refused() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 5]).unwrap();
    let packed = packed.finish().unwrap();
    assert_eq!(said("a.u8bin.gz", &packed), "it was read as 1 x 1");
    for len in 0..packed.len() {
        let message = said("a.u8bin.gz", &packed[..len]);
        assert!(!message.starts_with("it was read"), "cut to {len} bytes: {message}");
    }
}

#[test]
fn negative_ids_and_unknown_endings_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ibin");
    fs::write(&path, [1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
    assert!(ids(&path).unwrap_err().to_string().contains("negative id"));
    assert!(matches!(vectors(&dir.path().join("a.parquet")), Err(Error::UnknownFormat { .. })));
}

#[test]
fn a_gzip_stream_is_not_unpacked_far_beyond_what_its_header_says() {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&[1, 0, 0, 0, 4, 0, 0, 0]).unwrap();
    packed.write_all(&vec![0; 1 << 20]).unwrap();
    let packed = packed.finish().unwrap();
    let message = said("a.u8bin.gz", &packed);
    // What is counted is what was unpacked: the header, which is read in one go, and one byte beyond the four.
    assert!(message.contains("1 x 4 values of 1 bytes, but 12 bytes follow"), "{message}");
    assert!(said("a.fvecs.gz", &packed).contains("row 1"), "a format without such a header");
}
