//! The same rows in different formats are the same rows; what is written is read back.

use std::fs;

use kriya_datasets::{Matrix, ids, vectors, write_f16bin, write_fbin, write_ibin};

use crate::data;

#[test]
fn the_same_vectors_in_two_formats_are_equal() {
    let (u8bin, bvecs) = (data("tiny/sift128/base.u8bin"), data("tiny/sift128/base.bvecs"));
    assert_eq!(vectors(&u8bin).unwrap(), vectors(&bvecs).unwrap());
    let (u8bin, fvecs) = (data("tiny/sift128/query.u8bin"), data("tiny/sift128/query.fvecs"));
    assert_eq!(vectors(&u8bin).unwrap(), vectors(&fvecs).unwrap());
    let (ibin, ivecs) = (data("tiny/sift128/gt-l2.ibin"), data("tiny/sift128/gt-l2.ivecs"));
    assert_eq!(ids(&ibin).unwrap(), ids(&ivecs).unwrap());
}

#[test]
fn what_is_written_is_read_back_gzipped_or_not() {
    let dir = tempfile::tempdir().unwrap();
    // Every value is exactly a half.
    let rows = Matrix::new(vec![0.5_f32, -2.0, 65504.0, 0.0, 1.0, -0.25], 3).unwrap();
    let numbers = Matrix::new(vec![7_u32, 0, i32::MAX as u32, 9], 2).unwrap();
    for end in ["", ".gz"] {
        let path = |name: &str| dir.path().join(format!("{name}{end}"));
        write_fbin(&path("a.fbin"), &rows).unwrap();
        write_f16bin(&path("a.f16bin"), &rows).unwrap();
        write_ibin(&path("a.ibin"), &numbers).unwrap();
        assert_eq!(vectors(&path("a.fbin")).unwrap(), rows);
        assert_eq!(vectors(&path("a.f16bin")).unwrap(), rows);
        assert_eq!(ids(&path("a.ibin")).unwrap(), numbers);
    }
}

#[test]
fn a_row_of_an_idx_file_is_one_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("two-images-idx3-ubyte");
    fs::write(&path, [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 255]).unwrap();
    let read = vectors(&path).unwrap();
    assert_eq!((read.len(), read.dim()), (2, 3));
    assert_eq!(read.row(1), [4.0, 5.0, 255.0]);
}

#[test]
fn signed_bytes_keep_their_sign() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.i8bin");
    fs::write(&path, [2, 0, 0, 0, 2, 0, 0, 0, 0x80, 0xff, 0, 0x7f]).unwrap();
    assert_eq!(vectors(&path).unwrap().values(), [-128.0, -1.0, 0.0, 127.0]);
}
